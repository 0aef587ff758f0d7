"""A small encoded set, with the expected scores by hand."""

import numpy as np
import pyarrow as pa
import pytest

from models.baselines import SMOOTHING, Baselines, recency


def encoded(**columns: list[list[float]]) -> pa.Table:
    whole = ("moveline_item", "candidate_item", "candidate_position")
    return pa.table({name: pa.array(v, pa.list_(pa.int64() if name in whole else pa.float32())) for name, v in columns.items()})


def train() -> pa.Table:
    return encoded(moveline_item=[[5], []], candidate_item=[[5, 6, 2], [5, 7]], candidate_position=[[1, 2, 3], [1, 2]],
                   clicked=[[1, 0, 1], [1, 0]], weight=[[1, 1, 1], [1, 0]], seen_before=[[1, 0, 0], [0, 0]])


def test_click_rates_are_smoothed_and_count_viewed_items_only() -> None:
    found = Baselines.fit([train()], buckets=3)
    base = 3 / 4
    assert found.base_rate == base
    assert found.item_rate[5] == pytest.approx((2 + SMOOTHING * base) / (2 + SMOOTHING))
    assert found.item_rate[6] == pytest.approx((0 + SMOOTHING * base) / (1 + SMOOTHING))
    assert found.item_rate[7] == base, "nobody viewed item 7"
    assert found.position_rate[1] == pytest.approx((2 + SMOOTHING * base) / (2 + SMOOTHING))


def test_an_item_in_a_shared_bucket_or_never_shown_has_the_base_rate() -> None:
    found = Baselines.fit([train()], buckets=3)
    test = encoded(moveline_item=[[]], candidate_item=[[2, 900]], candidate_position=[[1, 200]], seen_before=[[0, 0]])
    assert found.scores(test)["popularity"].tolist() == [0.75, 0.75]
    assert found.scores(test)["position"][1] == 0.75


def test_counts_do_not_depend_on_how_the_rows_are_cut_into_tables() -> None:
    whole, parts = Baselines.fit([train()], 3), Baselines.fit([train().slice(0, 1), train().slice(1)], 3)
    assert np.allclose(whole.item_rate, parts.item_rate) and np.allclose(whole.position_rate, parts.position_rate)
    assert whole.base_rate == parts.base_rate


def test_recency_is_one_over_the_tokens_since_the_item_and_zero_for_an_unseen_one() -> None:
    pages = encoded(moveline_item=[[5, 6, 5, 7], [], [6]], candidate_item=[[5, 6, 7, 8], [5], [6, 5]],
                    seen_before=[[1, 1, 1, 0], [0], [0, 0]])
    assert recency(pages).tolist() == pytest.approx([1 / 2, 1 / 3, 1, 0, 0, 0, 0])


def test_ties_of_recency_are_broken_by_the_click_rate_of_the_position_and_nothing_else_is() -> None:
    found = Baselines.fit([train()], buckets=3)
    page = encoded(moveline_item=[[5, 6]], candidate_item=[[7, 8, 5, 6]], candidate_position=[[2, 1, 2, 2]],
                   seen_before=[[0, 0, 1, 1]])
    score = found.scores(page)["recent_position"]
    assert np.argsort(-score).tolist() == [3, 2, 1, 0], "the last item, the one before, then by position"


def test_no_training_rows_give_zero_rates_and_no_error() -> None:
    found = Baselines.fit([], buckets=3)
    test = encoded(moveline_item=[[]], candidate_item=[[5]], candidate_position=[[1]], seen_before=[[0]])
    assert {name: score.tolist() for name, score in found.scores(test).items()} == {
        "base_rate": [0.0], "popularity": [0.0], "recent": [0.0], "position": [0.0], "recent_position": [0.0]}
