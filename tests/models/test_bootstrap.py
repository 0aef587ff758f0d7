import math

import numpy as np
import pytest

from models import bootstrap, metrics


def rows(seed: int = 0, n: int = 400, users: int = 40) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    score = draw.random(n).round(2)
    return draw.integers(0, users, n), (draw.random(n) < score).astype(float), score, draw.integers(0, 2, n).astype(float)


def test_every_resample_equals_the_metric_of_the_repeated_rows() -> None:
    user, y, s, w = rows()
    resampler = bootstrap.Resampler(user, resamples=20, seed=3)
    auc, gauc = resampler.auc(y, s, w), resampler.ratio(metrics.gauc_parts(user, y, s, w))
    loss, error = resampler.ratio(metrics.log_loss_parts(y, s, w)), resampler.calibration(y, s, w)
    bins = metrics.calibration_bins(s, w)
    for r in range(20):
        again = w * resampler._times[r][resampler.cluster]
        assert auc[r] == pytest.approx(metrics.auc(y, s, again), abs=1e-9)
        assert loss[r] == pytest.approx(metrics.log_loss(y, s, again), abs=1e-9)
        assert gauc[r] == pytest.approx(metrics.gauc(user, y, s, again), abs=1e-9)
        sums = metrics.calibration_sums(y, s, again, bins)
        assert error[r] == pytest.approx(np.abs(sums[:, 1] - sums[:, 2]).sum() / sums[:, 0].sum(), abs=1e-9)


def test_the_interval_of_a_mean_has_the_textbook_width() -> None:
    draw = np.random.default_rng(5)
    y = (draw.random(20_000) < 0.3).astype(float)
    parts = metrics.Ratio(y, np.ones(len(y)), np.arange(len(y)))
    found = bootstrap.estimate(parts.value, bootstrap.Resampler(np.arange(len(y)), 400).ratio(parts))
    assert found.error == pytest.approx(math.sqrt(0.3 * 0.7 / 20_000), rel=0.15)
    assert found.low < found.value < found.high
    assert found.detectable == pytest.approx(2.8 * found.error)


def test_rows_of_one_user_are_drawn_together() -> None:
    y = np.repeat((np.random.default_rng(6).random(100) < 0.3).astype(float), 50)
    parts = metrics.Ratio(y, np.ones(len(y)), np.arange(len(y)))
    alone = bootstrap.Resampler(np.arange(len(y))).ratio(parts).std()
    together = bootstrap.Resampler(np.repeat(np.arange(100), 50)).ratio(parts).std()
    assert together > 4 * alone


def test_two_resamplers_of_one_seed_are_paired() -> None:
    user, y, s, w = rows(7)
    first, second = (bootstrap.Resampler(user, 50).auc(y, s, w) for _ in range(2))
    assert (first == second).all()
    apart = bootstrap.Resampler(user, 50).auc(y, s + 1e-3 * np.sin(np.arange(len(s))), w)
    assert (apart - first).std() < 0.5 * first.std()


def test_a_metric_without_rows_has_no_interval() -> None:
    resampler = bootstrap.Resampler([], 10)
    found = bootstrap.estimate(metrics.auc([], []), resampler.auc([], []))
    assert all(math.isnan(v) for v in (found.value, found.low, found.high, found.error))
