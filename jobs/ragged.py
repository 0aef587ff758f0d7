"""Sampling inside lists of unequal length, flattened: hashes and ranks instead of random draws and loops. Loads numpy only."""

import numpy as np
import numpy.typing as npt

Longs = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]
Flags = npt.NDArray[np.bool_]


def counted(lengths: Longs) -> Longs:
    """0, 1, .., n - 1 for every n in `lengths`, one after the other.

    Examples
    --------
    >>> counted(np.array([2, 0, 3])).tolist()
    [0, 1, 0, 1, 2]
    """
    ends = np.cumsum(lengths)
    return np.arange(int(lengths.sum()), dtype=np.int64) - np.repeat(ends - lengths, lengths)


def mixed(*keys: Keys, begun: Keys | None = None) -> Keys:
    """One 64-bit hash of several 64-bit keys an element; their order matters (the finaliser of splitmix64 after each).

    `begun` is the hash of keys that come before them: mixed(c, begun=mixed(a, b)) is mixed(a, b, c).
    """
    total = np.zeros(1, np.uint64) if begun is None else begun
    with np.errstate(over="ignore"):
        for key in keys:
            z = (total ^ key) + np.uint64(0x9E3779B97F4A7C15)
            z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
            z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
            total = z ^ (z >> np.uint64(31))
    return total


def smallest(group: Longs, key: Keys, cap: int) -> Flags:
    """Which elements are among the `cap` with the smallest keys of their group (of equal keys, the first ones).

    Examples
    --------
    >>> smallest(np.array([0, 0, 0, 1]), np.array([9, 1, 5, 7], np.uint64), 2).tolist()
    [False, True, True, True]
    """
    order = np.lexsort((key, group))
    of = group[order]
    first = np.flatnonzero(np.r_[True, of[1:] != of[:-1]]) if of.size else np.zeros(0, np.int64)
    place = counted(np.diff(np.r_[first, of.size]))
    chosen = np.zeros(of.size, bool)
    chosen[order[place < cap]] = True
    return chosen
