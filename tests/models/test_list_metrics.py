"""Hit rates of lists by hand, and against loops over random lists."""

import numpy as np
import pytest

from models import list_metrics
from models.list_metrics import Lists, hits, judged, kept
from models.tarq import teacher_of
from models.towers import TargetAttentionNet
from tests.models.synthetic import page_batch
from tests.models.test_tarq import tarq


def two() -> tuple[Lists, np.ndarray]:
    """Five candidates, two clicks; three candidates, one click; two candidates, one click."""
    page = np.repeat([0, 1, 2], [5, 3, 2])
    clicked = np.array([1, 0, 0, 1, 0, 0, 1, 0, 1, 0], float)
    return Lists(page, page, clicked), np.array([9, 8, 7, 1, 2, 5, 4, 3, 1, 2], float)


def test_hits_by_hand() -> None:
    lists, score = two()
    assert hits(lists, score, 1).value == pytest.approx((1 / 2 + 0 + 0) / 3)
    assert hits(lists, score, 2).value == pytest.approx((1 / 2 + 1) / 2)  # the list of two cannot miss and is left out
    assert hits(lists, score, 4).value == pytest.approx(1 / 2)
    assert np.isnan(hits(lists, score, 5).value)


def test_kept_by_hand() -> None:
    lists, score = two()
    assert kept(lists, score, score, 2).value == 1.0
    assert kept(lists, score, -score, 1).value == 0.0
    better = np.array([9, 0, 7, 1, 2, 5, 4, 3, 1, 2], float)  # its best two: 0 and 2 of the first list
    assert kept(lists, score, better, 2).value == pytest.approx((1 / 2 + 1) / 2)


def test_random_lists_equal_loops(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(list_metrics, "AT", (3,))
    draw = np.random.default_rng(0)
    page = np.repeat(np.arange(40), draw.integers(1, 12, 40))
    lists = Lists(page, page // 2, (draw.random(len(page)) < 0.3).astype(float))
    score, teacher = draw.permutation(len(page)).astype(float), draw.permutation(len(page)).astype(float)
    hit, same = [], []
    for own in (page == n for n in range(40)):
        if own.sum() > 3:
            best, wanted = (set(np.flatnonzero(own)[np.argsort(-s[own])[:3]]) for s in (score, teacher))
            same.append(len(best & wanted) / 3)
            clicks = set(np.flatnonzero(own & (lists.clicked > 0)))
            hit += [len(best & clicks) / len(clicks)] if clicks else []
    found = judged(lists, score, teacher)
    assert found["hit_3"][0] == pytest.approx(np.mean(hit)) and found["teacher_3"][0] == pytest.approx(np.mean(same))
    assert len(hit) > 10 and 0 < np.nanstd(found["hit_3"][1]) < 0.3
    assert set(judged(lists, score)) == {"hit_3"}


def test_the_teacher_of_tarq_is_a_model_of_its_own() -> None:
    model, batch = tarq(dropout=0.0, heads=2, hidden=(16, 8)).train(), page_batch(8)
    alone = teacher_of(model)
    assert isinstance(alone, TargetAttentionNet) and not alone.training
    expected = model(batch)
    assert (alone(batch) - expected.teacher).abs().max() < 1e-5 < (alone(batch) - expected.logits).abs().max()
