"""What a model has to beat: scores that need no training beyond counting clicks of training rows."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from feature_store.collate import flat, lengths
from models.metrics import Floats, Ints, sums_by

SMOOTHING = 20.0
"""Impressions at the base rate that are added to every item's and position's own."""

PROBABILITIES = ("base_rate", "popularity", "position")
"""The baselines that are click probabilities, and so have a log loss and a calibration."""

_LEAST = 1e-8
"""So little that it only breaks ties: the places of a moveline of up to 10,000 tokens differ by more in `recency`."""

_COLUMNS = ("candidate_item", "candidate_position", "clicked", "weight")


@dataclass(frozen=True)
class Baselines:
    """Click rates of training rows.

    Attributes
    ----------
    base_rate : clicks an impression. item_rate, position_rate : smoothed rate by item index and by position; an index beyond the
        end, like an item that was never shown in training, has the base rate.
    """

    base_rate: float
    item_rate: Floats
    position_rate: Floats

    @classmethod
    def fit(cls, tables: Iterable[pa.Table], buckets: int) -> "Baselines":
        """Count encoded training pages (`feature_store.encoding.ENCODED_PAGES`), table by table; items below `buckets` + 1 share
        an index with others, so they keep the base rate."""
        item, position = np.zeros((2, 0)), np.zeros((2, 0))
        for table in tables:
            items, places, clicked, weight = (flat(table, name) for name in _COLUMNS)
            item = _added(item, items.astype(np.int64), clicked, weight)
            position = _added(position, places.astype(np.int64), clicked, weight)
        shown = float(item[1].sum())
        base = float(item[0].sum()) / shown if shown > 0 else 0.0
        item[:, : buckets + 1] = 0.0
        return cls(base, _smoothed(item, base), _smoothed(position, base))

    def scores(self, table: pa.Table) -> dict[str, Floats]:
        """[N] the score of every shown item of encoded pages, by name of the baseline."""
        items, places = (flat(table, name).astype(np.int64) for name in _COLUMNS[:2])
        recent, position = recency(table), _looked_up(self.position_rate, places, self.base_rate)
        return {
            "base_rate": np.full(len(items), self.base_rate), "popularity": _looked_up(self.item_rate, items, self.base_rate),
            "recent": recent, "position": position, "recent_position": recent + _LEAST * position,
        }


def recency(table: pa.Table) -> Floats:
    """[N] 1 / (1 + tokens since the item's last token in the page's moveline); 0 for an item that is not in it."""
    tokens, shown = lengths(table, "moveline_item"), lengths(table, "candidate_item")
    width = 1 + int(max(flat(table, "moveline_item").max(initial=0), flat(table, "candidate_item").max(initial=0)))
    before = np.repeat(np.arange(len(tokens)), tokens) * width + flat(table, "moveline_item").astype(np.int64)
    asked = np.repeat(np.arange(len(shown)), shown) * width + flat(table, "candidate_item").astype(np.int64)
    since = np.repeat(np.cumsum(tokens), tokens) - 1 - np.arange(len(before))
    # Read backwards, the first occurrence of a (page, item) is the item's last token.
    keys, last = np.unique(before[::-1], return_index=True)
    if not len(keys):
        return np.zeros(len(asked))
    place = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
    # Two unknown items may share an index: only the exact ids say whether an item was seen.
    seen = (keys[place] == asked) & (flat(table, "seen_before") > 0)
    return np.where(seen, 1.0 / (1.0 + since[::-1][last[place]]), 0.0)


def _added(total: Floats, codes: Ints, clicked: Floats, weight: Floats) -> Floats:
    size = max(total.shape[1], int(codes.max(initial=-1)) + 1)
    out = np.zeros((2, size))
    out[:, : total.shape[1]] = total
    return out + np.stack([sums_by(codes, weight * clicked, size), sums_by(codes, weight.astype(np.float64), size)])


def _smoothed(counts: Floats, base: float) -> Floats:
    return (counts[0] + SMOOTHING * base) / (counts[1] + SMOOTHING)


def _looked_up(rate: Floats, codes: Ints, base: float) -> Floats:
    return np.append(rate, base)[np.minimum(codes, len(rate))]
