"""Batches for training: whole pages, the same global batches for any number of processes, the same number of steps on each.

The row groups of a set are dealt to S logical shards. Rank r of W owns the shards r, r + W, ...; step k of an epoch is the k-th
micro-batch of every shard, so that one and two processes see the same global batches. A page belongs to micro-batch
(place of its last shown item in its shard) // budget: a shard with n items has ceil(n / budget) of them in any order of its pages:
the number of steps is known before anything is read. A shard that ran dry contributes a padding page of weight 0. Where a model
compares pages of one user, all pages of a user go the way of the last of them.
"""

import itertools
import queue
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_store.batch import FlowBatch, PageBatch, PairBatch
from feature_store.collate import (
    FLOW_COLUMNS,
    PAGE_COLUMNS,
    PAIR_COLUMNS,
    flow_batch,
    flow_of_rows,
    padding_flow,
    padding_page,
    padding_pair,
    page_batch,
    pair_batch,
)
from feature_store.encoded_set import EncodedSet
from feature_store.errors import TableError
from feature_store.negatives import Pool
from feature_store.row_groups import RowGroup, audit, read_tables, row_groups

GROUPS_SHUFFLED = 4
"""Row groups among whose pages a permutation is drawn."""

_BATCHES_AHEAD = 4
B = TypeVar("B", PageBatch, PairBatch, FlowBatch)


class _Stream(Generic[B]):
    """What the streams share; see `PageStream`."""

    _columns: list[str]
    _padding: Callable[[], pa.Table]
    _keep_users = False

    def _batch(self, parts: list[pa.Table], epoch: int, step: int) -> B:
        """The batch of one step from the micro-batches of this rank's shards, in their order."""
        raise NotImplementedError

    def __init__(self, source: EncodedSet | Sequence[str], *, budget: int, rank: int, world: int, shards: int, seed: int,
                 shuffle: bool, rows: Mapping[str, int] | None) -> None:
        if not 0 <= rank < world or shards < world:
            raise TableError(f"loader: rank {rank} of {world} with {shards} shards; there must be at least one shard a process")
        if rows is None and not isinstance(source, EncodedSet):
            raise TableError("loader: a list of files needs `rows`, the rows of each embedding table, to check the indexes by")
        self.files = source.paths if isinstance(source, EncodedSet) else list(source)
        self.rank, self.world, self.shards, self.budget, self.seed, self.shuffle = rank, world, shards, budget, seed, shuffle
        self._rows = source.table_rows if isinstance(source, EncodedSet) and rows is None else rows or {}
        groups = row_groups(self.files)
        self._dealt = min(shards, len(groups))
        self._groups: list[list[RowGroup]] = [groups[s :: self._dealt] if s < self._dealt else [] for s in range(shards)]

    def steps(self, epoch: int) -> int:
        """Steps of an epoch, the same on every rank and known before anything is read."""
        return max(-(-sum(g.items for g in groups) // self.budget) for groups in self._groups)

    def epoch(self, number: int, start: int = 0) -> Iterator[B]:
        """The batches of one epoch from step `start` on, made ahead in a thread.

        Raises
        ------
        TableError : rows were lost between the files and here, or an index is outside its embedding table.
        """
        return _ahead(lambda: self._batches(number, start))

    def _batches(self, epoch: int, start: int) -> Iterator[B]:
        own = [self._micro_batches(shard, epoch) for shard in range(self.rank, self.shards, self.world)]
        padding = type(self)._padding()
        try:
            for step in range(self.steps(epoch)):
                parts = [next(shard, None) for shard in own]
                if step >= start:
                    filled = [padding if part is None else part for part in parts]
                    yield self._batch(filled, epoch, step)
            for shard in own:
                if next(shard, None) is not None:
                    raise TableError("loader: pages are left after the last step; the files changed while they were read")
        finally:
            for shard in own:
                shard.close()

    def _micro_batches(self, shard: int, epoch: int) -> Generator[pa.Table | None, None, None]:
        """The micro-batches of one shard in order, None for one that holds no page; then the audit."""
        current, before, parts = 0, 0, list[pa.Table]()
        for pages in self._shuffled(shard, epoch):
            sizes = pages["n_items"].to_numpy() if "n_items" in pages.column_names else np.ones(len(pages), np.int64)
            ends = np.cumsum(sizes) + before
            before = int(ends[-1])
            if self._keep_users:
                ends = ends[_last_of_run(pages["user"].to_numpy())]
            batch: np.ndarray = np.maximum(ends - 1, 0) // self.budget
            edges = [*np.flatnonzero(np.diff(batch, prepend=-1)), len(batch)]
            for begin, end in itertools.pairwise(edges):
                if batch[begin] > current:
                    yield pa.concat_tables(parts) if parts else None
                    yield from (None for _ in range(current + 1, int(batch[begin])))
                    current, parts = int(batch[begin]), []
                parts.append(pages.slice(begin, end - begin))
        if parts:
            yield pa.concat_tables(parts)

    def _shuffled(self, shard: int, epoch: int) -> Iterator[pa.Table]:
        """The pages of one shard, some row groups at a time, permuted; checks that all arrived."""
        if not self._groups[shard]:
            return
        draw = np.random.default_rng([self.seed, epoch, shard])
        order = int(draw.integers(2**31)) if self.shuffle else None
        found, buffer = 0, []
        for table in read_tables(self.files, self._columns, shard=shard, shards=self._dealt, seed=order):
            found += len(table)
            buffer += [table] if len(table) else []
            if len(buffer) == (GROUPS_SHUFFLED if self.shuffle else 1):
                yield self._permuted(buffer, draw)
                buffer = []
        if buffer:
            yield self._permuted(buffer, draw)
        audit(found, sum(g.rows for g in self._groups[shard]), f"loader, shard {shard}, epoch {epoch}")

    def _permuted(self, tables: list[pa.Table], draw: np.random.Generator) -> pa.Table:
        whole = pa.concat_tables(tables).combine_chunks()
        if not self.shuffle:
            return whole
        if not self._keep_users:
            return whole.take(pa.array(draw.permutation(len(whole))))
        # No row group cuts a user, so that all pages of these users are here; they stay in the order of their time.
        place, users = pd.factorize(whole["user"].to_numpy())
        return whole.take(pa.array(np.argsort(draw.permutation(len(users))[place], kind="stable")))


def _last_of_run(values: np.ndarray) -> np.ndarray:
    """[n] for each value, the place of the last of the equal values that lie together with it."""
    ends = np.append(np.flatnonzero(np.diff(values)), len(values) - 1)
    return ends[np.searchsorted(ends, np.arange(len(values)))]


class PageStream(_Stream[PageBatch]):
    """Batches of whole pages.

    Parameters
    ----------
    source : an encoded set, or Parquet files of `encoding.ENCODED_PAGES`.
    items_a_batch : shown items a shard and step; a micro-batch exceeds it by less than one page.
    rank, world : this process and how many there are. shards : logical shards; the global batches depend on it, not on `world`.
    seed, shuffle : order of row groups, and of pages within `GROUPS_SHUFFLED` row groups; another in every epoch.
    rows : embedding table -> rows; by default those the encoded set was made for.
    keep_users : the pages of a user stay together, in the order of time; a micro-batch then exceeds its budget by less than a user.
    flow : file of `models.generator.cached_flow` for these pages: [pages, K, d] float32, by row.

    Raises
    ------
    TableError : fewer shards than processes, files that cannot be read, or a flow that is not of as many pages.
    """

    _columns = PAGE_COLUMNS
    _padding = staticmethod(padding_page)

    def __init__(self, source: EncodedSet | Sequence[str], *, items_a_batch: int, rank: int = 0, world: int = 1, shards: int = 4,
                 seed: int = 0, shuffle: bool = True, rows: Mapping[str, int] | None = None, keep_users: bool = False,
                 flow: str | Path | None = None) -> None:
        super().__init__(source, budget=items_a_batch, rank=rank, world=world, shards=shards, seed=seed, shuffle=shuffle, rows=rows)
        self._keep_users = keep_users
        self._flow: np.ndarray | None = None if flow is None else np.load(flow, mmap_mode="r", allow_pickle=False)
        pages = sum(group.rows for groups in self._groups for group in groups)
        if self._flow is not None and len(self._flow) != pages:
            raise TableError(f"{flow}: holds the flow of {len(self._flow)} pages and the set has {pages}; delete the file")

    def _batch(self, parts: list[pa.Table], epoch: int, step: int) -> PageBatch:
        pages = pa.concat_tables(parts)
        return page_batch(pages, self._rows, None if self._flow is None else flow_of_rows(self._flow, pages["row"].to_numpy()))


class PairStream(_Stream[PairBatch]):
    """Batches of item pairs: as `PageStream`, `pairs_a_batch` pairs a shard and step, from files of `encoding.ENCODED_PAIRS`."""

    _columns = PAIR_COLUMNS
    _padding = staticmethod(padding_pair)

    def __init__(self, source: EncodedSet | Sequence[str], *, pairs_a_batch: int, rank: int = 0, world: int = 1, shards: int = 4,
                 seed: int = 0, shuffle: bool = True, rows: Mapping[str, int] | None = None) -> None:
        super().__init__(source, budget=pairs_a_batch, rank=rank, world=world, shards=shards, seed=seed, shuffle=shuffle, rows=rows)

    def _batch(self, parts: list[pa.Table], epoch: int, step: int) -> PairBatch:
        return pair_batch(pa.concat_tables(parts), self._rows)


class FlowStream(_Stream[FlowBatch]):
    """Batches of cuts of walks for a generator: as `PageStream`, from files of `encoding.ENCODED_FLOWS`.

    Parameters
    ----------
    futures_a_batch : future items a shard and step. pool : `EncodedSet.pool` of the training rows, for any rows.
    negatives : items drawn from the pool a step, the same on every rank.
    """

    _columns = FLOW_COLUMNS
    _padding = staticmethod(padding_flow)

    def __init__(self, source: EncodedSet | Sequence[str], *, futures_a_batch: int, pool: str | Path, negatives: int = 0,
                 rank: int = 0, world: int = 1, shards: int = 4, seed: int = 0, shuffle: bool = True,
                 rows: Mapping[str, int] | None = None) -> None:
        super().__init__(source, budget=futures_a_batch, rank=rank, world=world, shards=shards, seed=seed, shuffle=shuffle,
                         rows=rows)
        self._pool, self._negatives = Pool.load(pool), negatives

    def _batch(self, parts: list[pa.Table], epoch: int, step: int) -> FlowBatch:
        part = np.repeat(np.arange(self.rank, self.shards, self.world), [len(p) for p in parts])
        drawn = self._pool.draw(self._negatives, self.seed, epoch, step)
        return flow_batch(pa.concat_tables(parts), self._rows, part, self._pool, drawn)


T = TypeVar("T")


def _ahead(make: Callable[[], Iterator[T]]) -> Iterator[T]:
    """Run an iterator in a thread, a few elements ahead. Its errors are raised here; closing this iterator stops the thread."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(_BATCHES_AHEAD)
    stop = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stop.is_set():
            try:
                ready.put((kind, value), timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        elements = make()
        try:
            for element in elements:
                if not offer("element", element):
                    return
            offer("end", None)
        except BaseException as error:
            offer("error", error)
        finally:
            elements.close()  # type: ignore[attr-defined]

    thread = threading.Thread(target=work, name="moveline-loader", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "end":
                return
            if kind == "error":
                raise value
            yield value
    finally:
        stop.set()
        thread.join()
