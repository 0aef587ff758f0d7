"""Exact metrics of scored items, vectorised: no loop over users or pages, ties are counted exactly, an undefined metric is nan.

Every function takes one row an item. `weight` (default 1) says how much a row counts; rows of weight 0, such as items nobody
viewed, do not count at all. A metric that the rows cannot define (one class only, no page with a click) is `nan`, never made up.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
BINS = 20
_EPS = 1e-12


@dataclass(frozen=True)
class Ratio:
    """A metric as a ratio of sums of parts: sum(top) / sum(bottom), parts being groups (users, pages) or items.

    Attributes
    ----------
    top, bottom : [G] float64. first : [G] int64, the first row of each group, by which a caller finds the part's user.
    """

    top: Floats
    bottom: Floats
    first: Ints

    @property
    def value(self) -> float:
        """The metric; nan when nothing counts."""
        total = float(self.bottom.sum())
        return float(self.top.sum()) / total if total > 0 else float("nan")


def auc(clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Share of (clicked, unclicked) pairs in the right order; a tie counts one half.

    Examples
    --------
    >>> auc([1, 0, 0], [0.9, 0.1, 0.9])
    0.75
    """
    y, s, w = _rows(clicked, score, weight)
    return auc_parts(np.zeros(len(y), np.int64), y, s, w).value


def gauc(user: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean over users of their own AUC, weighted by their impressions; users with one class only are left out.

    Examples
    --------
    >>> gauc([0, 0, 0, 1, 1], [1, 0, 0, 1, 0], [0.9, 0.1, 0.2, 0.3, 0.4])
    0.6
    """
    return gauc_parts(user, clicked, score, weight).value


def page_gauc(page: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """As `gauc`, with pages in the place of users: order inside a page only."""
    return gauc_parts(page, clicked, score, weight).value


def log_loss(clicked: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Mean negative log likelihood, in nats."""
    return log_loss_parts(clicked, probability, weight).value


def recall_at(k: int, page: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Share of a page's clicks among its k best items, averaged over pages with a click; ties are averaged over their orders."""
    return recall_parts(k, page, clicked, score, weight).value


def ndcg_at(k: int, page: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> float:
    """Normalised discounted gain of the k best items, averaged over pages with a click; ties are averaged over their orders."""
    return ndcg_parts(k, page, clicked, score, weight).value


def calibration_error(clicked: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None, bins: int = BINS) -> float:
    """Expected calibration error: mean over bins of equal mass of |mean probability - click rate|, weighted by the bins' rows."""
    y, p, w = _rows(clicked, probability, weight)
    if not w.sum() > 0:
        return float("nan")
    sums = calibration_sums(y, p, w, calibration_bins(p, w, bins))
    return float(np.abs(sums[:, 1] - sums[:, 2]).sum() / sums[:, 0].sum())


def bias(clicked: Floats, probability: Floats, weight: Floats) -> float:
    """Expected clicks per click there was, minus 1; nan without a click.

    Examples
    --------
    >>> bias(np.array([1.0, 0.0]), np.array([0.5, 0.25]), np.ones(2))
    -0.25
    """
    clicks = float(weight @ clicked)
    return float(weight @ probability) / clicks - 1 if clicks > 0 else float("nan")


def calibration_bins(probability: Floats, weight: Floats, bins: int = BINS) -> Ints:
    """[N] int64, the bin of each row. Bins hold about equally many counted rows; equal probabilities share a bin."""
    counted = np.sort(probability[weight > 0])
    edges = np.unique(counted[(np.arange(1, bins) * len(counted)) // bins]) if len(counted) else counted
    return np.searchsorted(edges, probability, side="right").astype(np.int64)


def calibration_sums(clicked: Floats, probability: Floats, weight: Floats, bin_of: Ints) -> Floats:
    """[bins, 3] sums a bin: weight, weight x probability, weight x click."""
    size = int(bin_of.max(initial=-1)) + 1
    return np.stack([sums_by(bin_of, weight * v, size) for v in (np.ones_like(weight), probability, clicked)], 1)


def roc(clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None, points: int = 200) -> tuple[Floats, Floats]:
    """False and true positive rates over falling thresholds, thinned to about `points` points; starts at (0, 0), ends at (1, 1)."""
    y, s, w = _rows(clicked, score, weight)
    order = np.argsort(-s, kind="stable")
    last = np.append(np.flatnonzero(np.diff(s[order])), len(s) - 1) if len(s) else np.zeros(0, np.int64)
    rates = []
    for part in (w * (1 - y), w * y):
        up = np.cumsum(part[order])[last]
        rates.append(np.append(0.0, up / up[-1] if len(up) and up[-1] > 0 else up))
    keep = np.unique(np.linspace(0, len(last), min(points, len(last) + 1)).astype(np.int64))
    return rates[0][keep], rates[1][keep]


# Parts of the metrics above, for callers that resample users (`models.bootstrap`).

def gauc_parts(group: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> Ratio:
    """`gauc` as a ratio: top = impressions x AUC of a group, bottom = its impressions; groups of one class have 0 and 0."""
    y, s, w = _rows(clicked, score, weight)
    parts = auc_parts(np.asarray(group), y, s, w)
    rows = np.bincount(_codes(group), w, len(parts.top))
    both = parts.bottom > 0
    return Ratio(np.where(both, rows * parts.top / np.where(both, parts.bottom, 1.0), 0.0), np.where(both, rows, 0.0), parts.first)


def auc_parts(group: NDArray, clicked: Floats, score: Floats, weight: Floats) -> Ratio:
    """A group's rightly ordered pairs (top) of all its pairs (bottom); groups numbered by first appearance."""
    codes = _codes(group)
    size = int(codes.max(initial=-1)) + 1
    order, starts = _tie_blocks(codes, score)
    code, pos, neg = codes[order], (weight * clicked)[order], (weight * (1 - clicked))[order]
    # Within a group, a block of equal scores: its clicked rows win against all unclicked weight below and half of the block's own.
    block_pos, block_neg = _block_sums(pos, starts), _block_sums(neg, starts)
    block_code = code[starts] if len(starts) else code
    positives, negatives = sums_by(block_code, block_pos, size), sums_by(block_code, block_neg, size)
    below = np.cumsum(block_neg) - block_neg
    if size > 1:
        group_start = np.flatnonzero(np.diff(block_code, prepend=-1))
        below = below - np.repeat(below[group_start], np.diff(np.append(group_start, len(block_code))))
    top = sums_by(block_code, block_pos * (below + 0.5 * block_neg), size)
    return Ratio(top, positives * negatives, firsts(codes, size))


def log_loss_parts(clicked: ArrayLike, probability: ArrayLike, weight: ArrayLike | None = None) -> Ratio:
    """`log_loss` as a ratio, one part a row."""
    y, p, w = _rows(clicked, probability, weight)
    p = np.clip(p, _EPS, 1 - _EPS)
    return Ratio(-w * (y * np.log(p) + (1 - y) * np.log1p(-p)), w, np.arange(len(y)))


def recall_parts(k: int, page: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> Ratio:
    """`recall_at` as a ratio, one part a page; pages without a click have 0 and 0."""
    return _page_gain(page, clicked, score, weight, lambda place: (place <= k).astype(float), lambda clicks: clicks)


def ndcg_parts(k: int, page: ArrayLike, clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None = None) -> Ratio:
    """`ndcg_at` as a ratio, one part a page; pages without a click have 0 and 0."""
    ideal = np.append(0.0, np.cumsum(1 / np.log2(np.arange(2, k + 2))))
    return _page_gain(page, clicked, score, weight, lambda place: np.where(place <= k, 1 / np.log2(place + 1), 0.0),
                      lambda clicks: ideal[np.minimum(clicks, k).astype(np.int64)])


def sums_by(codes: Ints, values: Floats, size: int) -> Floats:
    """[size] float64, the sum of the values of each code 0..size-1."""
    return np.bincount(codes, values, size).astype(np.float64, copy=False)


def firsts(codes: Ints, size: int) -> Ints:
    """[size] int64, the first row of each code 0..size-1."""
    first = np.zeros(size, np.int64)
    first[codes[::-1]] = np.arange(len(codes))[::-1]
    return first


def _page_gain(page, clicked, score, weight, gain, ideal) -> Ratio:  # type: ignore[no-untyped-def]
    y, s, w = _rows(clicked, score, weight)
    codes = _codes(page)
    size = int(codes.max(initial=-1)) + 1
    first, kept = firsts(codes, size), w > 0
    codes, y, s = codes[kept], y[kept], s[kept]
    order, starts = _tie_blocks(codes, -s)
    shown = np.bincount(codes, minlength=size)
    place = np.arange(len(order)) - np.repeat(np.cumsum(shown) - shown, shown) + 1
    lengths = np.diff(np.append(starts, len(order)))
    block_gain = _block_sums(gain(place), starts) / lengths * _block_sums(y[order], starts)
    top = sums_by(codes[order][starts] if len(starts) else codes, block_gain, size)
    clicks = sums_by(codes, y, size)
    best = ideal(clicks)
    return Ratio(np.where(clicks > 0, top / np.where(best > 0, best, 1.0), 0.0), (clicks > 0).astype(float), first)


def _rows(clicked: ArrayLike, score: ArrayLike, weight: ArrayLike | None) -> tuple[Floats, Floats, Floats]:
    y, s = np.asarray(clicked, np.float64), np.asarray(score, np.float64)
    w = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    if not len(y) == len(s) == len(w):
        raise ValueError(f"clicked, score and weight differ in length: {len(y)}, {len(s)}, {len(w)}")
    if np.isnan(s).any():
        raise ValueError(f"{int(np.isnan(s).sum())} of {len(s)} scores are nan")
    return y, s, w


def _codes(group: ArrayLike) -> Ints:
    return pd.factorize(np.asarray(group))[0].astype(np.int64)


def _tie_blocks(codes: Ints, score: Floats) -> tuple[Ints, Ints]:
    """Rows ordered by (code, score), and where each run of equal (code, score) starts in that order."""
    by_score = np.argsort(score, kind="stable")
    rank = np.empty(len(score), np.int64)
    rank[by_score] = np.cumsum(np.diff(score[by_score], prepend=score[by_score][:1]) > 0)
    key = codes * (len(score) + 1) + rank
    order = by_score[np.argsort(key[by_score], kind="stable")] if codes.any() else by_score
    return order, np.flatnonzero(np.diff(key[order], prepend=-1))


def _block_sums(values: Floats, starts: Ints) -> Floats:
    return np.add.reduceat(values, starts) if len(starts) else np.zeros(0)
