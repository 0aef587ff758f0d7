"""Pair losses of CCN (arXiv 2411.11508) over the viewed items of whole pages, without a list of pairs.

Two items of one page are a co-click (both clicked), a co-non-click (neither) or a mono-click (exactly one): the paper's definition.
Collaborative pairs attract, mono-click pairs repel; the equations are a reconstruction. Pages of about one length are padded to the
longest of them and no pair crosses pages: memory is linear in the number of pages, and of a page at most four times its square.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from feature_store.batch import PageBatch
from models.layers import of_one_length

_PLACES, _SPREAD, _STEPS = 100_003, 0x9E3779B1, 0x85EBCA77
T = TypeVar("T", Tensor, np.ndarray)


@dataclass(frozen=True)
class Viewed:
    """The viewed items of B pages, page after page. n items.

    Attributes
    ----------
    item : [n] place in the batch's shown items. place : [n] place on its page. clicked : [n] bool. lengths : [B] items a page.
    row : [B] number that names a page wherever it is.
    """

    item: Tensor
    place: Tensor
    clicked: Tensor
    lengths: Tensor
    row: Tensor

    @classmethod
    def of(cls, batch: PageBatch) -> "Viewed":
        """Those of a batch: items of weight 0 are left out."""
        page, lengths = batch.page_of_item, batch.lengths
        place = torch.arange(batch.items, device=page.device) - (torch.cumsum(lengths, 0) - lengths).index_select(0, page)
        item = (batch.weight > 0).nonzero().squeeze(1)
        return cls(item, place[item], batch.clicked[item] > 0, torch.bincount(page[item], minlength=batch.pages), batch.row)

    @property
    def page(self) -> Tensor:
        """[n] the page (0..B-1) of each item."""
        return torch.repeat_interleave(torch.arange(len(self.lengths), device=self.lengths.device), self.lengths)

    def permuted(self) -> "Viewed":
        """The same pages with the clicks of each dealt anew among its viewed items, by a hash: a control that brings nothing."""
        page = self.page
        draw = _uniform(self.row.index_select(0, page) * _PLACES + self.place)
        clicked = torch.empty_like(self.clicked)
        clicked[torch.argsort(page.double() + draw, stable=True)] = self.clicked
        return Viewed(self.item, self.place, clicked, self.lengths, self.row)

    def counts(self) -> Tensor:
        """[B, 3] pairs of each page by kind, as in `contracts.PAIR_KINDS`."""
        clicks = torch.bincount(self.page[self.clicked], minlength=len(self.lengths))
        return torch.stack(pairs_of(self.lengths, clicks), 1)


def pairs_of(items: T, clicks: T) -> list[T]:
    """Co-click, co-non-click and mono-click pairs of pages with so many viewed items and clicks among them.

    Examples
    --------
    >>> [int(pairs) for pairs in pairs_of(np.array(10), np.array(3))]
    [3, 21, 21]
    """
    rest = items - clicks
    return [clicks * (clicks - 1) // 2, rest * (rest - 1) // 2, clicks * rest]


@dataclass(frozen=True)
class Sampling:
    """Which pairs are taken, each weighing the inverse of its probability. Co-click pairs always are, for they are few.

    Attributes
    ----------
    co_non_click, mono_click : pairs that an item is part of, on average over its page; 0 takes all.
    quiet : share of the pages without a click that are taken. step : number of the training step; each draws anew.
    """

    co_non_click: float = 0.0
    mono_click: float = 0.0
    quiet: float = 1.0
    step: int = 0

    @property
    def all(self) -> bool:
        """Nothing is left out."""
        return not (self.co_non_click or self.mono_click) and self.quiet == 1.0

    def shares(self, counts: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """[P, 3] probability of a pair on a page that is taken, and [P] that of the page, from [P, 3] pairs and [P] items."""
        most = torch.tensor([most or torch.inf for most in (0.0, self.co_non_click, self.mono_click)], device=counts.device)
        share = (most * items.clamp(min=1)[:, None] / (2.0 * counts.clamp(min=1))).clamp(max=1.0)
        return share, torch.where(counts[:, 0] + counts[:, 2] == 0, self.quiet, 1.0)

    def draws(self, row: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """Uniform numbers, [P, L, L] of every pair (below the diagonal) and [P] of every page: of step, row and places alone."""
        of_step = self.step * _STEPS
        key = row[:, None] * _PLACES + place
        return _uniform(key[:, :, None] * _SPREAD + key[:, None, :] + of_step), _uniform(row * _SPREAD - of_step)


def pair_losses(vectors: Tensor, viewed: Viewed, temperature: float, sampling: Sampling) -> Tensor:
    """[3] by kind: the sum over pairs of -log sigmoid(s), for mono-click pairs of -log sigmoid(-s), with s = cosine / temperature.

    With sampling its expectation is the sum over all pairs. vectors : [N, c] unit vectors of the batch's shown items.
    """
    total = _nothing(vectors).expand(3)
    for pages, item, real in _alike(viewed.lengths):
        clicked = (viewed.clicked[item] & real).to(vectors.dtype)
        other = real.to(vectors.dtype) - clicked
        # With the sign of its label in each vector, a pair of equal labels keeps the sign of its cosine and a mixed one turns it.
        signed = vectors[viewed.item[item]] * ((clicked - other) / temperature**0.5)[:, :, None]
        loss = F.softplus(-torch.bmm(signed, signed.transpose(1, 2))).tril(-1)
        if sampling.all:
            total = total + _by_kind(loss, clicked, other).sum(0)
            continue
        counts = torch.stack(pairs_of(real.sum(1), clicked.sum(1).long()), 1)
        share, of_page = sampling.shares(counts, real.sum(1))
        draw, of_row = sampling.draws(viewed.row[pages], viewed.place[item])
        found = [_by_kind(loss * (draw < share[:, k, None, None]), clicked, other)[:, k] for k in range(3)]
        chance = share * of_page[:, None]
        total = total + (torch.stack(found, 1) * ((of_row < of_page)[:, None] / chance)).sum(0)
    return total


def _by_kind(loss: Tensor, clicked: Tensor, other: Tensor) -> Tensor:
    """[P, 3] sums of [P, L, L] over the pairs below the diagonal, by kind; clicked, other [P, L] say which items are."""
    both = torch.stack([clicked, other], 1)
    sums = torch.bmm(both, torch.bmm(loss, both.transpose(1, 2)))
    return torch.stack([sums[:, 0, 0], sums[:, 1, 1], sums[:, 0, 1] + sums[:, 1, 0]], 1)


def supervised_contrast(vectors: Tensor, viewed: Viewed, temperature: float) -> tuple[Tensor, Tensor]:
    """Sum over anchors of -mean over items of the same label of log softmax over the other items of the page, and their number.

    An anchor is an item with at least one of the same label and one of the other on its page.
    """
    total, anchors = _nothing(vectors), vectors.new_zeros(())
    for _, item, real in _alike(viewed.lengths):
        own, clicked = vectors[viewed.item[item]], viewed.clicked[item]
        pair = real[:, :, None] & real[:, None, :] & ~torch.eye(real.shape[1], dtype=torch.bool, device=real.device)
        same = pair & (clicked[:, :, None] == clicked[:, None, :])
        page, place = (same.any(2) & (pair & ~same).any(2)).nonzero(as_tuple=True)
        score = (torch.bmm(own, own.transpose(1, 2)) / temperature)[page, place]
        log_sum = score.masked_fill(~pair[page, place], -torch.inf).logsumexp(1)
        alike = same[page, place]
        total = total + (log_sum - (score * alike).sum(1) / alike.sum(1)).sum()
        anchors = anchors + len(page)
    return total, anchors


def _nothing(vectors: Tensor) -> Tensor:
    """0, with a gradient of 0: on a rank without a pair every parameter must have one, or the others wait for it for ever."""
    return 0.0 * vectors.sum()


def _alike(lengths: Tensor) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Pages of about one length, two items or more: their numbers [P], the items of each [P, L], and [P, L] which of them are."""
    first = torch.cumsum(lengths, 0) - lengths
    paired = (lengths >= 2).nonzero().squeeze(1)
    for group in of_one_length(lengths[paired]):
        pages = paired[group]
        slot = torch.arange(int(lengths[pages].max()), device=lengths.device)
        real = slot < lengths[pages][:, None]
        yield pages, (first[pages][:, None] + slot).where(real, 0), real


def _uniform(key: Tensor) -> Tensor:
    """Numbers in [0, 1) that look random, by int64 keys."""
    mixed = (key ^ ((key >> 31) & 0x1FFFFFFFF)) * 0x7FB5D329728EA185
    mixed = (mixed ^ ((mixed >> 27) & 0x1FFFFFFFFF)) * 0x369DEA0F31A53F85
    return ((mixed >> 33) & 0xFFFFFF).double() / (1 << 24)
