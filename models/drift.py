"""How far two distributions are apart, from counts by bin."""

from collections.abc import Sequence

import numpy as np

LEAST = 1e-4
"""Share that an empty bin counts as: without it one item in a new bin would be infinitely far."""


def stability(before: Sequence[float], after: Sequence[float]) -> float:
    """Population stability index of two histograms of the same bins: sum of (q - p) log(q / p). 0 for the same shape; nan when one
    is empty. Below 0.1 is taken for unchanged, above 0.25 for another population.

    Examples
    --------
    >>> stability([5, 5], [50, 50]), round(stability([5, 5], [9, 1]), 4)
    (0.0, 0.8789)
    """
    p, q = (np.asarray(counts, np.float64) for counts in (before, after))
    if not (p.sum() > 0 and q.sum() > 0):
        return float("nan")
    p, q = (np.maximum(counts / counts.sum(), LEAST) for counts in (p, q))
    return float(((q - p) * np.log(q / p)).sum())
