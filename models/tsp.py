"""Temporal Sequential Pairwise loss (TSP) of AMEN (arXiv 2411.11502): a clicked item against an unclicked one of another page.

The paper says that it pairs items whose feedback was collected at different times, so that the moveline tells favoured items from
others. Its equation was never published: this is a reconstruction. A pair has one user and two pages at most a day apart, and its
weight fades with the time between. A user's pages must come in one micro-batch for all of their pairs to be found.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from feature_store.batch import PageBatch

MOST = 8
"""Pairs a clicked item, at most."""

LONGEST_US = 24 * 3_600_000_000
FADE_US = 6 * 3_600_000_000


@dataclass(frozen=True)
class ItemPairs:
    """P pairs of shown items. clicked, other : [P] places in the batch's shown items. weight : [P] float32."""

    clicked: Tensor
    other: Tensor
    weight: Tensor


def pairs_across_pages(batch: PageBatch, most: int = MOST) -> ItemPairs:
    """Each clicked item with up to `most` unclicked ones of its user's other pages, not more than `LONGEST_US` apart.

    Of more than `most`, they are spread evenly over the candidates in order of time, from a start hashed from the clicked item:
    the same for the same pages in any batch. Weights are exp(-time between / `FADE_US`).
    """
    order, place = _by_user_and_time(batch)
    low, high = _windows(batch, order)
    first, count, others = _unclicked(batch, place)
    clicked = ((batch.clicked > 0) & (batch.weight > 0)).nonzero().squeeze(1)
    at = place.index_select(0, batch.page_of_item.index_select(0, clicked))
    start, stop, own = first[low[at]], first[high[at]], count[at]
    number, slot = _slots(_keys(batch, clicked), stop - start - own, most)
    chosen = start[number] + slot
    chosen = torch.where(chosen >= first[at[number]], chosen + own[number], chosen)
    return _paired(batch, clicked[number], others[chosen])


def pairs_on_a_page(batch: PageBatch, most: int = MOST) -> ItemPairs:
    """The control: each clicked item with up to `most` unclicked ones of its own page, chosen likewise; all weights are 1."""
    _, place = _by_user_and_time(batch)
    first, count, others = _unclicked(batch, place)
    clicked = ((batch.clicked > 0) & (batch.weight > 0)).nonzero().squeeze(1)
    at = place.index_select(0, batch.page_of_item.index_select(0, clicked))
    number, slot = _slots(_keys(batch, clicked), count[at], most)
    return _paired(batch, clicked[number], others[first[at[number]] + slot])


def tsp(score: Tensor, pairs: ItemPairs) -> tuple[Tensor, Tensor]:
    """Sum and weight of -log sigmoid(score of the clicked item - score of the other); score [N] of the shown items.

    Variant A scores with the logits. Variant B scores with what the user's walk adds to them: the logits less those of the same
    item when nothing is known of the user. This reading of B needs one more forward a batch, and none a pair.
    """
    difference = score.index_select(0, pairs.clicked) - score.index_select(0, pairs.other)
    return (F.softplus(-difference) * pairs.weight).sum(), pairs.weight.sum()


def _by_user_and_time(batch: PageBatch) -> tuple[Tensor, Tensor]:
    """[B] pages in order of user, time and row, and [B] the place of each page in that order."""
    order = torch.argsort(batch.row, stable=True)
    for key in (batch.shown_time, batch.user):
        order = order[torch.argsort(key[order], stable=True)]
    return order, torch.argsort(order)


def _windows(batch: PageBatch, order: Tensor) -> tuple[Tensor, Tensor]:
    """[B] where the pages near each page (in order) begin and end: of the same user, at most `LONGEST_US` before or after."""
    time = batch.shown_time - batch.shown_time.min()
    user = torch.unique(batch.user, return_inverse=True)[1]
    key = (user * (time.max() + LONGEST_US + 1) + time)[order]
    return torch.searchsorted(key, key - LONGEST_US), torch.searchsorted(key, key + LONGEST_US, right=True)


def _unclicked(batch: PageBatch, place: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """[B + 1] where the unclicked items of each page (in order) begin, [B] how many they are, and all of them, page by page."""
    items = ((batch.clicked == 0) & (batch.weight > 0)).nonzero().squeeze(1)
    page = place.index_select(0, batch.page_of_item.index_select(0, items))
    count = torch.bincount(page, minlength=batch.pages)
    return F.pad(torch.cumsum(count, 0), (1, 0)), count, items[torch.argsort(page, stable=True)]


def _keys(batch: PageBatch, items: Tensor) -> Tensor:
    """[n] numbers that look random and depend on the item's page and its place there alone."""
    page = batch.page_of_item.index_select(0, items)
    begins = torch.cumsum(batch.lengths, 0) - batch.lengths
    key = (batch.row.index_select(0, page) * 100_003 + items - begins.index_select(0, page)) * 0x2545F4914F6CDD1D
    return (key >> 33) & 0x3FFFFFFF


def _slots(key: Tensor, count: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """For each key up to `most` different numbers below its count, as (place of the key, number)."""
    taken = count.clamp(max=most)
    slot = torch.arange(most, device=key.device)
    spread = (slot * count[:, None] + (key % count.clamp(min=1))[:, None]) // taken.clamp(min=1)[:, None]
    kept = slot < taken[:, None]
    return kept.nonzero()[:, 0], spread[kept]


def _paired(batch: PageBatch, clicked: Tensor, other: Tensor) -> ItemPairs:
    time = batch.shown_time.index_select(0, batch.page_of_item)
    between = (time.index_select(0, clicked) - time.index_select(0, other)).abs()
    return ItemPairs(clicked, other, torch.exp(-(between.double() / FADE_US)).to(batch.weight.dtype))
