"""Multi-head attention and pre-LN transformer blocks on padded sequences [B, T, d], values first and padding after them.

Dropout masks depend on the step and on a key a position alone, so they are the same for any number of ranks.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.layers import HashedDropout


class MultiHead(nn.Module):
    """Scaled dot-product attention of queries on keys in several heads.

    Parameters
    ----------
    dim : of queries, keys and result; a multiple of `heads`.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(dim, dim)
        self.memory = nn.Linear(dim, 2 * dim)
        self.out = nn.Linear(dim, dim)

    def forward(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """queries [B, L, d], memory [B, T, d], mask [B, T] of the keys that count (at least one a row; None: all) -> [B, L, d]."""
        return self.out(self.looked(queries, memory, mask, causal))

    def looked(self, queries: Tensor, memory: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
        """[B, L, d] what the heads found, side by side, before the layer `out`; for callers whose own layer follows it."""
        keys, values = self.memory(memory).chunk(2, 2)
        allowed = None if mask is None else mask[:, None, None, :]
        query, keys, values = (split_heads(x, self.heads) for x in (self.query(queries), keys, values))
        found = F.scaled_dot_product_attention(query, keys, values, allowed, is_causal=causal)
        return found.transpose(1, 2).flatten(2)


def split_heads(x: Tensor, heads: int) -> Tensor:
    """[B, L, d] -> [B, heads, L, d / heads]."""
    return x.view(x.shape[0], x.shape[1], heads, -1).transpose(1, 2)


class Block(nn.Module):
    """A pre-LN transformer layer: causal attention on the sequence itself, then on a memory (if it has one), then a network.

    Parameters
    ----------
    crossed : whether it attends to a memory. salt : first number of its dropout layers, of which it uses three.
    """

    def __init__(self, dim: int, heads: int, dropout: float, salt: int, crossed: bool = False) -> None:
        super().__init__()
        self.own_norm, self.own = nn.LayerNorm(dim), MultiHead(dim, heads)
        self.cross_norm = nn.LayerNorm(dim) if crossed else None
        self.cross = MultiHead(dim, heads) if crossed else None
        self.wide_norm, self.wide, self.narrow = nn.LayerNorm(dim), nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)
        self.drops = nn.ModuleList(HashedDropout(dropout, salt + n) for n in range(3))

    def forward(self, x: Tensor, key: Tensor, memory: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """x [B, T, d], key [B, T] int64; memory [B, M, d] with mask [B, M] for a crossed block."""
        before = self.own_norm(x)
        x = x + self._drop(0, self.own(before, before, causal=True), key)
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            x = x + self._drop(1, self.cross(self.cross_norm(x), memory, mask), key)
        return x + self._drop(2, self.narrow(F.gelu(self.wide(self.wide_norm(x)))), key)

    def _drop(self, number: int, x: Tensor, key: Tensor) -> Tensor:
        return self.drops[number](x.flatten(0, 1), key.flatten()).view_as(x)


class CausalEncoder(nn.Module):
    """Blocks on one sequence and a closing norm. A place sees itself and the places before it, never the padding after it."""

    def __init__(self, dim: int, layers: int, heads: int, dropout: float, salt: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(dim, heads, dropout, salt + 3 * n) for n in range(layers))
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        """x [B, T, d], key [B, T] -> [B, T, d]."""
        for block in self.blocks:
            x = block(x, key)
        return self.norm(x)


def with_null(null: Tensor, memory: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """The memory [B, T, d] and its mask [B, T] with one learned key [d] before it, so that attention to an empty row is defined."""
    first = null.expand(len(memory), 1, -1)
    return torch.cat([first, memory], 1), F.pad(mask, (1, 0), value=True)
