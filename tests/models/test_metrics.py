"""Oracles are plain loops over pairs, users and pages, and scikit-learn."""

import math
import time
from itertools import pairwise, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import log_loss as sk_log_loss
from sklearn.metrics import roc_auc_score

from models import metrics

Rows = list[tuple[int, int, float, float]]


def some_rows(scores: list[float], weights: list[float], size: int) -> st.SearchStrategy[Rows]:
    """Random (group, label, score, weight) rows with many ties."""
    row = st.tuples(st.integers(0, 4), st.integers(0, 1), st.sampled_from(scores), st.sampled_from(weights))
    return st.lists(row, max_size=size)


def columns(rows: Rows) -> tuple[np.ndarray, ...]:
    return tuple(np.array([r[i] for r in rows], dtype=t) for i, t in enumerate((int, int, float, float)))


def slow_auc(rows: Rows) -> float:
    won = pairs = 0.0
    for _, y, s, w in rows:
        for _, other, t, v in rows:
            if y == 1 and other == 0:
                pairs += w * v
                won += w * v * (1.0 if s > t else 0.5 if s == t else 0.0)
    return won / pairs if pairs else math.nan


def slow_gauc(rows: Rows) -> float:
    top = bottom = 0.0
    for user in {r[0] for r in rows}:
        own = [r for r in rows if r[0] == user]
        if not math.isnan(value := slow_auc(own)):
            weight = sum(r[3] for r in own)
            top, bottom = top + weight * value, bottom + weight
    return top / bottom if bottom else math.nan


def slow_page(rows: Rows, k: int, kind: str) -> float:
    values = []
    for page in {r[0] for r in rows}:
        own = [r for r in rows if r[0] == page and r[3] > 0][:5]
        clicks = sum(r[1] for r in own)
        if not clicks:
            continue
        orders = [o for o in permutations(own) if all(a[2] >= b[2] for a, b in pairwise(o))]
        if kind == "recall":
            values.append(np.mean([sum(r[1] for r in o[:k]) / clicks for o in orders]))
        else:
            ideal = sum(1 / math.log2(i + 2) for i in range(min(k, clicks)))
            values.append(np.mean([sum(r[1] / math.log2(i + 2) for i, r in enumerate(o[:k])) / ideal for o in orders]))
    return float(np.mean(values)) if values else math.nan


def same(a: float, b: float) -> bool:
    return (math.isnan(a) and math.isnan(b)) or abs(a - b) < 1e-9


@given(some_rows([0.1, 0.2, 0.5, 0.9], [0.0, 1.0, 2.5], 30))
@settings(max_examples=150, deadline=None)
def test_auc_and_gauc_equal_a_loop_over_pairs(rows: Rows) -> None:
    group, y, s, w = columns(rows)
    assert same(metrics.auc(y, s, w), slow_auc(rows))
    assert same(metrics.gauc(group, y, s, w), slow_gauc(rows))
    assert same(metrics.page_gauc(group, y, s, w), slow_gauc(rows))


@given(some_rows([0.1, 0.2, 0.5], [0.0, 1.0], 12), st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_recall_and_ndcg_average_over_the_orders_of_ties(rows: Rows, k: int) -> None:
    kept = [r for page in range(5) for r in [r for r in rows if r[0] == page and r[3] > 0][:5]]
    group, y, s, w = columns(kept)
    assert same(metrics.recall_at(k, group, y, s, w), slow_page(kept, k, "recall"))
    assert same(metrics.ndcg_at(k, group, y, s, w), slow_page(kept, k, "ndcg"))


def test_metrics_equal_scikit_learn_on_random_rows() -> None:
    draw = np.random.default_rng(1)
    y, s, w = draw.integers(0, 2, 500), draw.random(500).round(2), draw.random(500)
    assert metrics.auc(y, s, w) == pytest.approx(roc_auc_score(y, s, sample_weight=w), abs=1e-9)
    p = np.clip(s, 0.01, 0.99)
    assert metrics.log_loss(y, p, w) == pytest.approx(sk_log_loss(y, p, sample_weight=w), abs=1e-9)


def test_calibration_error_equals_a_loop_over_bins() -> None:
    draw = np.random.default_rng(2)
    p, w = draw.random(1000), draw.integers(0, 2, 1000).astype(float)
    y = (draw.random(1000) < p**2).astype(float)
    counted = sorted(p[w > 0])
    edges = [counted[i * len(counted) // 10] for i in range(1, 10)]
    bins: dict[int, list[int]] = {}
    for i in range(1000):
        if w[i] > 0:
            bins.setdefault(sum(p[i] >= e for e in edges), []).append(i)
    slow = sum(abs(sum(p[i] - y[i] for i in rows)) for rows in bins.values()) / len(counted)
    assert metrics.calibration_error(y, p, w, bins=10) == pytest.approx(slow, abs=1e-9)
    assert metrics.calibration_error(np.r_[np.ones(3), np.zeros(7)], np.full(10, 0.3)) == pytest.approx(0.0, abs=1e-12)


def test_items_of_weight_zero_do_not_count_anywhere() -> None:
    page, y, s = [0, 0, 0, 1, 1], [1, 0, 0, 1, 0], [0.5, 0.9, 0.1, 0.3, 0.2]
    w = [1, 0, 1, 1, 1]
    assert metrics.auc(y, s, w) == metrics.gauc(page, y, s, w) == metrics.ndcg_at(1, page, y, s, w) == 1.0
    assert metrics.recall_at(1, page, y, s) == 0.5


def test_an_undefined_metric_is_nan_and_empty_rows_raise_nothing() -> None:
    assert all(math.isnan(v) for v in (metrics.auc([], []), metrics.gauc([], [], []), metrics.ndcg_at(5, [], [], []),
                                       metrics.log_loss([], []), metrics.calibration_error([], []), metrics.auc([1, 1], [0.1, 0.2]),
                                       metrics.gauc([0, 1], [1, 0], [0.1, 0.2])))


def test_a_nan_score_and_unequal_lengths_are_errors() -> None:
    with pytest.raises(ValueError, match="1 of 2 scores are nan"):
        metrics.auc([1, 0], [0.5, math.nan])
    with pytest.raises(ValueError, match="differ in length: 2, 1, 2"):
        metrics.auc([1, 0], [0.5])


def test_the_roc_curve_encloses_the_auc() -> None:
    draw = np.random.default_rng(3)
    s = draw.random(2000)
    y = (draw.random(2000) < s).astype(float)
    false, true = metrics.roc(y, s, points=2001)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert float(np.trapz(true, false)) == pytest.approx(metrics.auc(y, s), abs=1e-9)


def test_gauc_of_a_million_rows_is_forty_times_faster_than_a_loop() -> None:
    draw = np.random.default_rng(4)
    rows, users = 1_000_000, 100_000
    u, s = draw.integers(0, users, rows), draw.random(rows).round(4)
    y = (draw.random(rows) < 0.1).astype(float)
    metrics.gauc(u[:1000], y[:1000], s[:1000])
    started = time.perf_counter()
    metrics.gauc(u, y, s)
    fast = time.perf_counter() - started
    order = np.argsort(u, kind="stable")
    edges = np.searchsorted(u[order], np.arange(1001))
    started = time.perf_counter()
    for a, b in pairwise(edges):
        own = order[a:b]
        if 0 < y[own].sum() < len(own):
            roc_auc_score(y[own], s[own])
    slow = (time.perf_counter() - started) * users / 1000
    assert slow / fast >= 40
