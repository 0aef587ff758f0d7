"""Intervals by resampling users: every resample draws whole users, and all resamples share one table of weights, so that the
difference of two models on the same rows is paired."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike

from models.metrics import Floats, Ints, Ratio, calibration_bins, sums_by

RESAMPLES = 200
DETECTABLE = 2.8
"""Standard errors of a difference that a two-sided test at 5 % finds four times in five."""
_BLOCK = 16


@dataclass(frozen=True)
class Estimate:
    """A number with its 95 % interval and standard error (nan where the rows cannot define them)."""

    value: float
    low: float
    high: float
    error: float

    @property
    def detectable(self) -> float:
        """Smallest true difference these rows would detect, for an Estimate of a difference."""
        return DETECTABLE * self.error


def estimate(value: float, draws: Floats) -> Estimate:
    """The estimate whose resampled values are `draws`: the middle 95 % of them, and their standard deviation."""
    known = draws[~np.isnan(draws)]
    if len(known) < 2 or np.isnan(value):
        return Estimate(value, float("nan"), float("nan"), float("nan"))
    low, high = np.quantile(known, (0.025, 0.975))
    return Estimate(value, float(low), float(high), float(known.std(ddof=1)))


class Resampler:
    """Resamples of clusters (users, or pages), each cluster drawn Poisson(1) times.

    Parameters
    ----------
    cluster : [N] the cluster of each row. resamples : how many. seed : names the draw.
    """

    def __init__(self, cluster: ArrayLike, resamples: int = RESAMPLES, seed: int = 0) -> None:
        self.cluster: Ints = pd.factorize(np.asarray(cluster))[0].astype(np.int64)
        self.clusters = int(self.cluster.max(initial=-1)) + 1
        draws = np.random.default_rng(seed)
        self._times = np.empty((resamples, self.clusters), np.uint8)
        for start in range(0, resamples, _BLOCK):
            block = self._times[start:start + _BLOCK]
            block[:] = draws.poisson(1.0, block.shape)

    @property
    def resamples(self) -> int:
        """Number of resamples R."""
        return len(self._times)

    def ratio(self, parts: Ratio) -> Floats:
        """[R] a ratio metric in each resample."""
        owner = self.cluster[parts.first]
        sums = np.stack([sums_by(owner, part, self.clusters) for part in (parts.top, parts.bottom)], 1)
        drawn = self._drawn(sums)
        return _divide(drawn[:, 0], drawn[:, 1])

    def auc(self, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """[R] the AUC over all rows in each resample: pairs across users count, so it is no ratio of sums of users."""
        y, s = np.asarray(clicked, np.float64), np.asarray(score, np.float64)
        w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
        up, down = np.flatnonzero(w * y > 0), np.flatnonzero(w * (1 - y) > 0)
        down = down[np.argsort(s[down], kind="stable")]
        out = np.full(self.resamples, np.nan)
        # The unclicked rows below each clicked one, and those not above it: their mean counts a tie one half.
        below, not_above = (np.searchsorted(s[down], s[up], side=side) for side in ("left", "right"))
        lost = np.zeros(len(down) + 1)
        w_down, w_up, of_down, of_up = w[down], w[up], self.cluster[down], self.cluster[up]
        for r in range(self.resamples if len(up) and len(down) else 0):
            times = self._times[r]
            np.cumsum(w_down * times[of_down], out=lost[1:])
            won = w_up * times[of_up]
            pairs = won.sum() * lost[-1]
            out[r] = float(won @ (lost[below] + lost[not_above])) / (2 * pairs) if pairs > 0 else np.nan
        return out

    def calibration(self, clicked: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> Floats:
        """[R] the calibration error in each resample, in the bins of all rows."""
        y, p = np.asarray(clicked, np.float64), np.asarray(probability, np.float64)
        w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
        bins = calibration_bins(p, w)
        size = int(bins.max(initial=-1)) + 1
        # Sums of each (cluster, bin); few bins, so the dense table is clusters x bins.
        sums = [sums_by(self.cluster * size + bins, v, self.clusters * size).reshape(self.clusters, size)
                for v in (w, w * (p - y))]
        drawn = self._drawn(np.concatenate(sums, 1))
        return _divide(np.abs(drawn[:, size:]).sum(1), drawn[:, :size].sum(1))

    def _drawn(self, sums: Floats) -> Floats:
        return np.concatenate([self._times[i:i + _BLOCK].astype(np.float64) @ sums for i in range(0, self.resamples, _BLOCK)])


def _divide(top: Floats, bottom: Floats) -> Floats:
    return np.divide(top, bottom, out=np.full(len(top), np.nan), where=bottom > 0)
