import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.batch import PageBatch
from models.tsp import ItemPairs, pairs_across_pages, pairs_on_a_page, tsp
from tests.models import oracles
from tests.models.synthetic import page_batch, select

HOUR_US = 3_600_000_000
ALL = 1_000


def visited(seed: int, pages: int = 14, users: int = 4, hours: int = 60) -> PageBatch:
    """Pages of some users over some hours; some items were not viewed; times tie."""
    g = torch.Generator().manual_seed(seed)
    batch = page_batch(pages, seed, items=(1, 6), first_row=7)
    batch.user = torch.randint(0, users, (pages,), generator=g)
    batch.shown_time = 1_700_000_000_000_000 + torch.randint(0, hours, (pages,), generator=g) * HOUR_US
    batch.clicked = (torch.rand(batch.items, generator=g) < 0.4).float()
    batch.weight = (torch.rand(batch.items, generator=g) < 0.8).float()
    return batch


def expected(batch: PageBatch) -> list[tuple[int, int]]:
    page = batch.page_of_item
    clicked = torch.where(batch.weight > 0, batch.clicked, torch.full_like(batch.clicked, 2.0))
    columns = (batch.user[page], page, batch.shown_time[page].double() / HOUR_US, clicked)
    return oracles.tsp_pairs(*(c.double().numpy() for c in columns), 24.0)


def found(pairs: ItemPairs) -> list[tuple[int, int]]:
    return sorted(zip(pairs.clicked.tolist(), pairs.other.tolist(), strict=True))


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_without_a_bound_pairs_and_loss_equal_brute_force(seed: int) -> None:
    batch = visited(seed)
    pairs, brute = pairs_across_pages(batch, ALL), expected(batch)
    assert found(pairs) == sorted(brute)
    score = torch.randn(batch.items)
    hours = (batch.shown_time[batch.page_of_item].double() / HOUR_US).numpy()
    total, weight = tsp(score, pairs)
    assert (float(total), float(weight)) == pytest.approx(oracles.tsp_loss(score.double().numpy(), hours, brute, 6.0), abs=1e-4)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_clicked_item_has_as_many_pairs_as_there_are_up_to_the_bound(seed: int, most: int) -> None:
    batch = visited(seed)
    some, brute = found(pairs_across_pages(batch, most)), expected(batch)
    assert len(set(some)) == len(some) and set(some) <= set(brute)
    counts = np.bincount([p for p, _ in brute], minlength=batch.items)
    assert np.array_equal(np.bincount([p for p, _ in some], minlength=batch.items), np.minimum(counts, most))


def test_pairs_do_not_depend_on_the_batch_or_its_order() -> None:
    batch = visited(5)

    def named(batch: PageBatch) -> set[tuple[int, int, int, int]]:
        page, start = batch.page_of_item, torch.cumsum(batch.lengths, 0) - batch.lengths
        row, place = batch.row[page].tolist(), (torch.arange(batch.items) - start[page]).tolist()
        return {(row[p], place[p], row[n], place[n]) for p, n in found(pairs_across_pages(batch, 2))}

    order = torch.randperm(batch.pages).tolist()
    assert named(select(batch, order)) == named(batch)
    halves = [[n for n in range(batch.pages) if int(batch.user[n]) % 2 == rest] for rest in (0, 1)]
    first, second = (named(select(batch, half)) for half in halves)
    assert first | second == named(batch) and not first & second


def test_chosen_pairs_are_spread_over_the_candidates() -> None:
    batch = page_batch(40, 1, items=(6, 6))
    batch.user[:], batch.clicked[:] = 0, 0
    batch.clicked[0] = 1
    pages = batch.page_of_item[pairs_across_pages(batch).other]
    assert len(pages) == 8 and len(set(pages.tolist())) == 8 and int(pages.max()) > 30


def test_the_control_pairs_items_of_one_page_alone() -> None:
    batch = visited(9)
    page = batch.page_of_item
    pairs = pairs_on_a_page(batch, ALL)
    brute = [(p, n) for p in range(batch.items) for n in range(batch.items) if page[p] == page[n]
             and batch.clicked[p] == 1 and batch.clicked[n] == 0 and batch.weight[p] > 0 and batch.weight[n] > 0]
    assert found(pairs) == sorted(brute) and torch.equal(pairs.weight, torch.ones(len(brute)))


def test_without_a_pair_the_loss_and_its_weight_are_zero() -> None:
    batch = page_batch(5)
    batch.user = torch.arange(5)
    score = torch.randn(batch.items, requires_grad=True)
    total, weight = tsp(score, pairs_across_pages(batch))
    total.backward()
    assert float(total) == float(weight) == 0 and float(score.grad.abs().sum()) == 0


def test_a_better_order_has_a_lower_loss() -> None:
    batch = visited(3)
    score, pairs = torch.randn(batch.items), pairs_across_pages(batch)
    assert float(tsp(score + 3 * batch.clicked, pairs)[0]) < float(tsp(score, pairs)[0])
