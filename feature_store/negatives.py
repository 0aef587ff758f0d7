"""Items that occur as futures of training rows: how often, and draws of them as negatives of a generator."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.errors import TableError

POOL = "pool.parquet"
_FLATTENED = 0.75
"""Negatives are drawn by count to this power: in-batch futures, which come as often as they occur, cover what is popular."""

_SCHEMA = pa.schema([("item", pa.int64()), ("category", pa.int64()), ("count", pa.int64())])


class Pool:
    """Distinct future items.

    Parameters
    ----------
    table : columns item (distinct, ascending), category (the last one seen with it) and count, all int64.
    """

    def __init__(self, table: pa.Table) -> None:
        self.item, self.category, self.count = (table[name].to_numpy() for name in _SCHEMA.names)
        share = self.count.astype(np.float64) ** _FLATTENED
        self._share = share / max(share.sum(), 1.0)
        self._until = np.cumsum(self._share)
        self._counts = np.zeros(int(self.item.max(initial=0)) + 1, np.int64)
        self._counts[self.item] = self.count

    @classmethod
    def of(cls, files: Iterable[str | Path]) -> "Pool":
        """Count the futures of encoded flows, row group by row group."""
        count, category = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for path in files:
            with pq.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=["future_item", "future_category"]):
                    item, own = (batch.column(name).flatten().to_numpy() for name in batch.schema.names)
                    found = np.bincount(item, minlength=len(count))
                    category = np.pad(category, (0, len(found) - len(category)))
                    found[: len(count)] += count
                    category[item] = own
                    count = found
        item = np.flatnonzero(count)
        return cls(pa.table([item, category[item], count[item]], schema=_SCHEMA))

    @classmethod
    def load(cls, path: str | Path) -> "Pool":
        """Read what `save` wrote. Raises TableError when there is no such file or no item in it."""
        try:
            table = pq.read_table(path, schema=_SCHEMA)
        except (OSError, pa.ArrowException) as error:
            raise TableError(f"{path}: no legible pool of negatives; delete its folder and encode again") from error
        if not len(table):
            raise TableError(f"{path}: no future item occurs in the training rows; see `split` and `flows` in the recipe")
        return cls(table)

    def save(self, path: str | Path) -> None:
        """Write the pool to one Parquet file."""
        pq.write_table(pa.table([self.item, self.category, self.count], schema=_SCHEMA), path, compression="zstd")

    def log_share(self, items: np.ndarray) -> np.ndarray:
        """[len(items)] float32, log of each item's share among all futures; one that never occurs counts as one that did once."""
        known = self._counts[np.where(items < len(self._counts), items, 0)]
        return np.log(np.maximum(np.where(items < len(self._counts), known, 0), 1) / max(self.count.sum(), 1)).astype(np.float32)

    def draw(self, count: int, seed: int, epoch: int, step: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """`count` items with replacement: items, their categories, and log of the probability each was drawn with (float32).

        A function of (seed, epoch, step) alone, so that every rank draws the same.
        """
        draw = np.random.Generator(np.random.Philox(key=np.array([seed, (epoch << 32) + step], np.uint64)))
        place = np.minimum(np.searchsorted(self._until, draw.random(count), side="right"), len(self.item) - 1)
        return self.item[place], self.category[place], np.log(self._share[place]).astype(np.float32)
