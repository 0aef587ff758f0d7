"""The pair losses of ccn beside the same equations written as loops, and its counts beside closed forms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.batch import PageBatch
from models.page_pairs import Sampling, Viewed, pair_losses, supervised_contrast
from tests.models import oracles
from tests.models.synthetic import page_batch, select

ALL = Sampling()
SOME = Sampling(co_non_click=2.0, mono_click=3.0, quiet=0.3)


def clicked_pages(seed: int, pages: int = 9, items: tuple[int, int] = (1, 14), rate: float = 0.3) -> PageBatch:
    """Pages of which some have no click, some no unclicked item, and some items were not viewed."""
    g = torch.Generator().manual_seed(seed)
    batch = page_batch(pages, seed, items=items, first_row=5)
    batch.clicked = (torch.rand(batch.items, generator=g) < rate).float()
    batch.weight = (torch.rand(batch.items, generator=g) < 0.8).float()
    page = batch.page_of_item
    batch.clicked[page == 0], batch.clicked[page == 1] = 0.0, 1.0
    return batch


def units(batch: PageBatch, seed: int = 0, columns: int = 6) -> torch.Tensor:
    drawn = torch.randn(batch.items, columns, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(drawn, dim=1)


def expected(batch: PageBatch, vectors: torch.Tensor, tau: float) -> tuple[list[float], list[int]]:
    columns = (vectors, batch.page_of_item, batch.clicked, batch.weight)
    return oracles.page_pair_losses(*(c.double().numpy() for c in columns), tau)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.sampled_from([0.1, 0.5, 1.0]))
def test_losses_and_counts_equal_loops_over_pairs(seed: int, tau: float) -> None:
    batch = clicked_pages(seed)
    vectors, viewed = units(batch, seed), Viewed.of(batch)
    sums, counts = expected(batch, vectors, tau)
    assert viewed.counts().sum(0).tolist() == counts
    assert pair_losses(vectors, viewed, tau, ALL).tolist() == pytest.approx(sums, rel=1e-5, abs=1e-5)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000))
def test_supervised_contrast_equals_loops_over_anchors(seed: int) -> None:
    batch = clicked_pages(seed)
    total, anchors = supervised_contrast(units(batch, seed), Viewed.of(batch), 0.2)
    columns = (units(batch, seed), batch.page_of_item, batch.clicked, batch.weight)
    expected = oracles.page_contrast(*(c.double().numpy() for c in columns), 0.2)
    assert (float(total), int(anchors)) == pytest.approx(expected, rel=1e-5)


def test_counts_are_the_closed_forms_of_the_paper() -> None:
    batch = page_batch(2, items=(10, 10))
    batch.clicked[:] = 0.0
    batch.clicked[:1], batch.clicked[10:13] = 1.0, 1.0
    assert Viewed.of(batch).counts().tolist() == [[0, 36, 9], [3, 21, 21]]
    assert [math.comb(3, 2), math.comb(7, 2), 3 * 7] == [3, 21, 21]


def test_items_that_were_not_viewed_are_left_out() -> None:
    batch = clicked_pages(1)
    kept = (batch.weight > 0).float()
    first = pair_losses(units(batch), Viewed.of(batch), 0.1, ALL)
    batch.clicked = torch.where(kept > 0, batch.clicked, 1 - batch.clicked)
    moved = units(batch) * kept[:, None] + units(batch, 1) * (1 - kept[:, None])
    assert torch.equal(first, pair_losses(moved, Viewed.of(batch), 0.1, ALL))


@pytest.mark.parametrize("clicked", [0.0, 1.0])
def test_pages_of_one_label_and_of_one_item_give_no_nan(clicked: float) -> None:
    batch = page_batch(6, items=(1, 4))
    batch.clicked[:] = clicked
    vectors = units(batch).requires_grad_()
    total, anchors = supervised_contrast(vectors, Viewed.of(batch), 0.1)
    losses = pair_losses(vectors, Viewed.of(batch), 0.1, SOME)
    assert float(total) == float(anchors) == float(losses[2]) == float(losses[0 if clicked == 0 else 1]) == 0.0
    (losses.sum() + total).backward()
    assert vectors.grad is not None and torch.isfinite(vectors.grad).all()
    batch.weight[:] = 0.0
    nothing = pair_losses(vectors, Viewed.of(batch), 0.1, ALL)
    assert nothing.tolist() == [0.0, 0.0, 0.0] and int(Viewed.of(batch).counts().sum()) == 0


def test_with_sampling_losses_agree_in_expectation() -> None:
    batch = clicked_pages(3, 12, (6, 14), 0.15)
    vectors, viewed = units(batch), Viewed.of(batch)
    draws = torch.stack([pair_losses(vectors, viewed, 0.5, Sampling(2.0, 1.0, 0.3, step)) for step in range(3_000)]).double()
    whole = pair_losses(vectors, viewed, 0.5, ALL).double()
    error = draws.std(0) / math.sqrt(len(draws))
    assert float(error[0]) == 0.0 and float(error[1:].min()) > 0  # co-clicks are all taken, others are sampled
    assert float(((draws.mean(0) - whole).abs() - 1e-4 - 4 * error).max()) < 0


def test_sampled_pairs_an_item_are_as_many_as_asked_for() -> None:
    batch = page_batch(40, items=(25, 25))
    batch.clicked[:] = 0.0
    batch.clicked[::5] = 1.0
    viewed = Viewed.of(batch)
    counts = viewed.counts()
    share, of_page = Sampling(2.0, 4.0).shares(counts, viewed.lengths)
    assert (share * counts)[0].tolist() == pytest.approx([10.0, 25.0, 50.0]) and of_page.tolist() == [1.0] * 40
    place = torch.arange(25).expand(40, 25)
    draw, _ = Sampling(2.0, 4.0, step=9).draws(viewed.row, place)
    below = torch.ones(25, 25).tril(-1) > 0
    assert float((draw[:, below] < share[0, 1]).double().mean()) == pytest.approx(float(share[0, 1]), rel=0.1)


@pytest.mark.parametrize("sampling", [ALL, Sampling(2.0, 3.0, 0.3, 17)])
def test_parts_on_two_ranks_give_the_sums_of_one(sampling: Sampling) -> None:
    batch = clicked_pages(8, 16)
    vectors, page = units(batch), batch.page_of_item
    whole = pair_losses(vectors, Viewed.of(batch), 0.1, sampling)
    parts = [(select(batch, own), torch.cat([vectors[page == p] for p in own])) for own in (range(0, 16, 2), range(15, 0, -2))]
    found = [pair_losses(v, Viewed.of(b), 0.1, sampling) for b, v in parts]
    torch.testing.assert_close(found[0] + found[1], whole, rtol=1e-5, atol=1e-5)
    assert torch.equal(sum(Viewed.of(b).counts().sum(0) for b, _ in parts), Viewed.of(batch).counts().sum(0))


def test_permuted_labels_keep_the_clicks_of_a_page_and_do_not_depend_on_the_batch() -> None:
    batch = clicked_pages(4, 60, (4, 12))
    viewed = Viewed.of(batch)
    dealt = viewed.permuted()
    assert torch.equal(dealt.counts(), viewed.counts()) and not torch.equal(dealt.clicked, viewed.clicked)
    mixed = (viewed.counts()[:, 2] > 0)[viewed.page]
    agree = np.corrcoef(viewed.clicked[mixed].numpy(), dealt.clicked[mixed].numpy())[0, 1]
    assert abs(agree) < 0.25  # only what pages of different rates have in common
    alone = Viewed.of(select(batch, [7])).permuted().clicked
    assert torch.equal(alone, dealt.clicked[viewed.page == 7])


def test_long_pages_do_not_pad_short_ones() -> None:
    batch = page_batch(30, items=(3, 6))
    long = page_batch(1, 5, items=(283, 283), first_row=100)
    sizes = []
    real = torch.bmm
    for one in (batch, long):
        vectors = units(one).requires_grad_()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(torch, "bmm", lambda a, b: sizes.append(a.shape[0] * a.shape[1] * b.shape[2]) or real(a, b))
            pair_losses(vectors, Viewed.of(one), 0.1, ALL)
    assert max(sizes[:3]) <= 30 * 8 * 8 and max(sizes[3:]) == 283 * 283
