"""The layers of a user's walk that generator and ranker share, so that the second can begin with the first one's weights."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from feature_store.batch import VISIT_DENSE
from models.attention import CausalEncoder
from models.layers import Jagged, of_one_length

_TOKEN = ("moveline_item", "moveline_category", "moveline_scene", "moveline_action")
PLACES = 256
"""Places before the cut that are told apart."""


class TokenLayer(nn.Module):
    """A token of a moveline as one vector: LN(W [item, category, scene, action] + age)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(len(_TOKEN) * dim, dim), nn.LayerNorm(dim)

    def forward(self, vectors: Mapping[str, Tensor]) -> Tensor:
        """Vectors by feature -> [tokens, d]."""
        return self.norm(self.mix(torch.cat([vectors[name] for name in _TOKEN], 1)) + vectors["moveline_age"])


class VisitLayer(nn.Module):
    """A scene visit as one vector: LN(W [scene, category, dwell and counts] + age)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix, self.norm = nn.Linear(2 * dim + len(VISIT_DENSE), dim), nn.LayerNorm(dim)

    def forward(self, vectors: Mapping[str, Tensor], dense: Tensor) -> Tensor:
        """Vectors by feature, dense [visits, len(VISIT_DENSE)] -> [visits, d]."""
        mixed = self.mix(torch.cat([vectors["visit_scene"], vectors["visit_category"], dense], 1))
        return self.norm(mixed + vectors["visit_age"])


class TargetLayer(nn.Module):
    """An item as something a user may want: W [id, category]. An item without an id of its own still has its category."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.mix = nn.Linear(2 * dim, dim)

    def forward(self, item: Tensor, category: Tensor) -> Tensor:
        """item, category [n, d] -> [n, d], of any length."""
        return self.mix(torch.cat([item, category], 1))


class Walk(nn.Module):
    """Vectors of one kind of step (tokens, or visits), told apart by their place before the cut, through a causal encoder."""

    def __init__(self, dim: int, layers: int, heads: int, dropout: float, salt: int) -> None:
        super().__init__()
        self.place = nn.Parameter(torch.randn(PLACES, dim) * 0.02)
        self.encoder = CausalEncoder(dim, layers, heads, dropout, salt)

    def forward(self, steps: Tensor, line: Jagged, row: Tensor) -> Tensor:
        """steps [n, d], where they lie, row [B] int64 that names a row wherever it is computed -> [B, T, d]."""
        length = line.mask.sum(1)
        before = (length.index_select(0, line.page) - 1 - line.place).clamp(max=PLACES - 1)
        padded = line.pad(steps + self.place.index_select(0, before))
        key = row[:, None] * 4_099 + torch.arange(line.longest, device=row.device)
        rows = of_one_length(length)
        parts = [self._encoded(padded, key, chosen, max(int(length[chosen].max()), 1)) for chosen in rows]
        return torch.cat(parts).index_select(0, torch.argsort(torch.cat(rows)))

    def _encoded(self, padded: Tensor, key: Tensor, rows: Tensor, longest: int) -> Tensor:
        """[rows, T, d]; what lies beyond the longest is 0."""
        found = self.encoder(padded.index_select(0, rows)[:, :longest], key.index_select(0, rows)[:, :longest])
        return F.pad(found, (0, 0, 0, padded.shape[1] - longest))
