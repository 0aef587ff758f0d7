"""Random numbers that are a function of their keys alone: no state, so any part of a log can be computed anywhere, in any order."""

import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Flags = NDArray[np.bool_]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)


class Noise:
    """Keyed noise: SplitMix64 over (seed, stream name, keys).

    Examples
    --------
    >>> float(Noise(7).uniform("price", 3)) == float(Noise(7).uniform("price", 3))
    True
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def uniform(self, stream: str, *keys: Any) -> Floats:
        """Uniform in [0, 1), one for each element of the broadcast integer `keys`."""
        return (self._bits(stream, *keys) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def normal(self, stream: str, *keys: Any) -> Floats:
        """Standard normal, by Box and Muller."""
        radius = np.sqrt(-2 * np.log1p(-self.uniform(stream, *keys)))
        return np.asarray(radius * np.cos(2 * np.pi * self.uniform(stream + "'", *keys)))

    def integers(self, stream: str, below: int, *keys: Any) -> Ints:
        """Integers in 0..below-1."""
        return np.asarray(self.uniform(stream, *keys) * below).astype(np.int64)

    def _bits(self, stream: str, *keys: Any) -> NDArray[np.uint64]:
        state = np.uint64((self.seed << 32) ^ zlib.crc32(stream.encode()))
        with np.errstate(over="ignore"):
            for key in keys:
                state = _mixed(state + np.asarray(key).astype(np.int64).astype(np.uint64) * _STEP)
            return np.asarray(_mixed(state + _STEP))


def _mixed(z: Any) -> Any:
    z = (z ^ (z >> np.uint64(30))) * _FIRST
    z = (z ^ (z >> np.uint64(27))) * _SECOND
    return z ^ (z >> np.uint64(31))


def draw(cumulative: Floats, uniform: Floats) -> Ints:
    """Index drawn from each row of cumulative weights [..., n] by one uniform [...]."""
    picked = (cumulative < (uniform * cumulative[..., -1])[..., None]).sum(-1)
    return np.minimum(picked, cumulative.shape[-1] - 1)
