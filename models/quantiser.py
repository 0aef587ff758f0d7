"""Residual quantisation of item vectors, and what ties its code books to a target attention (TARQ, arXiv 2509.16931).

The losses of the code books and of the autoencoder are those that residual quantisation usually has (RQ-VAE): TARQ's own were not
published. The alignment is that of the authors' code: one symmetric divergence a level, of raw and of attended code books.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from models.layers import Jagged

_COMMIT = 0.25
_SMALL = 1e-8


class Quantised(NamedTuple):
    """N vectors as codes.

    Attributes
    ----------
    codes : [N, L]. vector : [N, d] sum of the codes' vectors; its gradient goes to the vector that was quantised, straight through.
    loss : [N] sum over levels of |sg(rest) - code|^2 + 0.25 |rest - sg(code)|^2.
    """

    codes: Tensor
    vector: Tensor
    loss: Tensor


class ResidualQuantiser(nn.Module):
    """L code books of K vectors: each level quantises what the levels before it left over.

    Parameters
    ----------
    dim : columns of the vectors.

    Attributes
    ----------
    begun : whether the books count yet; part of the weights, so that a warm start keeps the books it begins with.
    """

    begun: Tensor

    def __init__(self, levels: int, codes: int, dim: int) -> None:
        super().__init__()
        self.books = nn.Parameter(torch.randn(levels, codes, dim) * 0.1)
        self.register_buffer("begun", torch.zeros(1, dtype=torch.bool))

    def forward(self, vectors: Tensor) -> Quantised:
        """vectors : [N, d]."""
        codes, rest, loss = self.encode(vectors), vectors, vectors.new_zeros(len(vectors))
        for level, book in enumerate(self.books):
            chosen = book.index_select(0, codes[:, level])
            loss = loss + (rest.detach() - chosen).square().sum(1) + _COMMIT * (rest - chosen.detach()).square().sum(1)
            rest = rest - chosen.detach()
        return Quantised(codes, vectors + (self.decode(codes) - vectors).detach(), loss)

    @torch.no_grad()
    def encode(self, vectors: Tensor) -> Tensor:
        """[N, L] int64: the nearest code of each level to what is left of the vectors [N, d]; of equally near ones the first."""
        rest, found = vectors, []
        for book in self.books:
            found.append(squared(rest, book).argmin(1))
            rest = rest - book.index_select(0, found[-1])
        return torch.stack(found, 1)

    def decode(self, codes: Tensor) -> Tensor:
        """[N, d] sum of the vectors of codes [N, L]."""
        return sum_of_codes(self.books.flatten(0, 1), codes, self.books.shape[1])


def sum_of_codes(books: Tensor, codes: Tensor, size: int) -> Tensor:
    """[N, d] sum over levels of rows of books [L * size, d], one book after the other; codes [N, L]."""
    places = codes + size * torch.arange(codes.shape[1], device=codes.device)
    return books.index_select(0, places.flatten()).view(*codes.shape, -1).sum(1)


def squared(left: Tensor, right: Tensor) -> Tensor:
    """[..., N, K] squared distances of left [..., N, d] and right [..., K, d]."""
    products = left @ right.transpose(-1, -2)
    return (left.square().sum(-1)[..., :, None] - 2 * products + right.square().sum(-1)[..., None, :]).clamp(min=0)


class Aligned(NamedTuple):
    """Of N items: kl [N], the divergences summed over the levels; rest [N], half the squared distance of student and teacher."""

    kl: Tensor
    rest: Tensor


def alignment(vectors: Tensor, codes: Tensor, books: Tensor, attended: Tensor, target: Tensor, shown: Jagged) -> Aligned:
    """How far the code books are from giving the teacher's vector, level by level.

    A level compares two distributions over its codes, softmax of minus the squared distances: of the item's own rest to the raw
    book, and of the teacher's rest to the book as the user attended to it. Both rests then lose the same code, the nearest one on
    the raw side. This is the alignment loss of the authors' code (arXiv 2509.16931).

    Parameters
    ----------
    vectors : [N, d] to be quantised. codes : [N, L]. books : [L, K, d]. attended : [B, L, K, D] the books of each page's user.
    target : [N, D] the teacher's vectors; no gradient goes there. shown : where the N items lie on the B pages.
    """
    own, other, kl = vectors, target.detach(), vectors.new_zeros(len(vectors))
    for level, book in enumerate(books):
        raw = torch.softmax(-squared(own, book), 1)
        seen = torch.softmax(-shown.unpad(squared(shown.pad(other), attended[:, level])), 1)
        kl = kl + _divergence(raw, seen) + _divergence(seen, raw)
        own = own - book.index_select(0, codes[:, level])
        other = other - attended[shown.page, level, codes[:, level]]
    return Aligned(kl, 0.5 * other.square().sum(1))


def _divergence(left: Tensor, right: Tensor) -> Tensor:
    return (left * torch.log(left / (right + _SMALL) + _SMALL)).sum(1)


def code_counts(codes: Tensor, weight: Tensor, size: int) -> Tensor:
    """[L, size] how many items of a positive weight have each code; codes [N, L]."""
    kept = codes[weight > 0]
    return torch.stack([torch.bincount(level, minlength=size) for level in kept.unbind(1)])


def code_figures(counts: Tensor) -> dict[str, float]:
    """Monitors of code books from [L, K] counts, by level from 1 on, and the means over the levels.

    `use`: share of the codes that occur; `entropy`: of their distribution, in nats (log K: all alike); `most_frequent`: the code
    that occurs most, and `most_frequent_share` its share.

    Examples
    --------
    >>> found = code_figures(torch.tensor([[3, 0, 1, 0]]))
    >>> found["code_use_1"], round(found["code_entropy_1"], 4), found["code_most_frequent_1"], found["code_most_frequent_share"]
    (0.5, 0.5623, 0.0, 0.75)
    """
    share = counts.double() / counts.sum(1, keepdim=True).clamp(min=1e-12)
    each = {"use": (share > 0).double().mean(1), "entropy": torch.special.entr(share).sum(1),
            "most_frequent_share": share.amax(1)}
    found = {f"code_{name}_{level}": float(value) for name, values in each.items() for level, value in enumerate(values, 1)}
    found |= {f"code_most_frequent_{level}": float(place) for level, place in enumerate(share.argmax(1), 1)}
    return found | {f"code_{name}": float(values.mean()) for name, values in each.items()}
