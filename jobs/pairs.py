"""Pairs of items shown on one page: co-click (both clicked), co-non-click (neither), mono-click (exactly one).

A page of n viewed items with c clicks has C(c, 2), C(n - c, 2) and c (n - c) of them: the counts are exact and cost nothing.
The pairs themselves are sampled: a page gives at most `max_a_page` of each kind, those with the smallest hash of (page,
item, item). That is a simple random sample, so each pair is in it with probability cap / count and weighs count / cap.

Memory: pages are taken in runs of at most `_BLOCK` pairs, and a longer page in blocks of its rows, of which only the
smallest hashes stay; a task holds one Arrow batch of pages, `_BLOCK` pairs and one row of the longest page.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import PAIR_COUNTS, PAIR_KINDS, PAIRS
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from feature_store.worker_rows import WorkerRows
from jobs.day import DayResult, Made, build_day, inputs_of
from jobs.ragged import Flags, Keys, Longs, counted, mixed, smallest

_SEED = 20_241_105
_BLOCK = 1 << 20
_CODE = ("jobs.pairs", "jobs.ragged")
_WEIGHT_UNITS = 1_000_000
_CO_CLICK, _CO_NON_CLICK, _MONO_CLICK = range(len(PAIR_KINDS))


def sampled_pairs(pages: DataFrame, max_a_page: int, block: int = _BLOCK) -> WorkerRows:
    """Pages -> rows of the PAIRS contract, one a page, in its order within the partitions of `pages`.

    Parameters
    ----------
    pages : rows of the PAGES contract (an item is on a page once).
    max_a_page : most sampled pairs of one page and kind.
    block : most pairs held at a time.
    """
    counted_pages = exact_counts(pages)
    keyed = counted_pages.select(
        *(c for c in PAIRS.columns if c in counted_pages.columns),
        *(F.col(f"shown.{name}_id").alias(f"_{name}") for name in ("item", "category")), F.col("shown.clicked").alias("_clicked"),
        F.transform("shown", lambda s: F.xxhash64(F.lit(_SEED), s["item_id"])).alias("_item_key"),
        F.xxhash64(F.lit(_SEED), "page_id").alias("_page_key"))
    work = partial(_sample_batches, cap=max_a_page, block=block)
    return WorkerRows(keyed.sortWithinPartitions(*PAIRS.sort), work, PAIRS.schema)


def exact_counts(pages: DataFrame) -> DataFrame:
    """Pages with n_items, n_clicked and the exact number of pairs of each kind, over viewed items.

    Adds `shown`: the viewed items as structs (item_id, clicked, category_id), ascending by item.
    """
    # Counted from two lists of flags: counting `shown` would sort it, also where nobody asks for it.
    both = F.zip_with("viewed", "clicked", lambda v, c: v & c)
    counted_pages = pages.drop("n_items", "n_clicked").withColumns({
        "shown": _shown(), "n_items": F.size(F.filter("viewed", _itself)), "n_clicked": F.size(F.filter(both, _itself))})
    n, c = F.col("n_items").cast("long"), F.col("n_clicked").cast("long")
    return counted_pages.withColumns({"co_click": _two_of(c), "co_non_click": _two_of(n - c), "mono_click": c * (n - c)})


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> list[DayResult]:
    """Build one day of `pairs`, then of `pair_counts`."""
    return [_build_pairs(spark, recipe, lake, ds), _build_counts(spark, lake, ds)]


def _build_pairs(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    def made(_: Mapping[str, str]) -> Made:
        pages = lake.read(spark, "pages", [ds])
        return Made(sampled_pairs(pages, recipe.pairs.max_a_page), lambda rows: {"in": pages.count(), "out": rows.count()})

    return build_day(lake.table("pairs"), ds, lambda: inputs_of(lake, {"pages": [ds]}, _CODE, recipe.pairs.model_dump()), made)


def _build_counts(spark: SparkSession, lake: Lake, ds: str) -> DayResult:
    def made(_: Mapping[str, str]) -> Made:
        pairs = lake.read(spark, "pairs", [ds])

        def counts(rows: DataFrame) -> dict[str, int]:
            sampled = int(pairs.agg(F.coalesce(F.sum(F.size("left_item")), F.lit(0))).first()[0])  # type: ignore[index]
            out = rows.count()
            return {"in": sampled, "out": out, "merged": sampled - out}

        return Made(pair_counts(pairs), counts)

    return build_day(lake.table("pair_counts"), ds, lambda: inputs_of(lake, {"pairs": [ds]}, _CODE, {}), made)


def _shown() -> Column:
    clicked = F.transform("clicked", lambda c: F.coalesce(c, F.lit(False))).alias("clicked")
    rows = F.arrays_zip("item_id", clicked, "category_id", "viewed")
    # `array_sort` calls its comparison as an interpreted function; this one is compiled, and here their order is the same.
    return F.sort_array(F.transform(F.filter(rows, lambda r: r["viewed"]), _without_viewed))


def _itself(flag: Column) -> Column:
    return flag


def _without_viewed(row: Column) -> Column:
    return F.struct(*(row[name].alias(name) for name in ("item_id", "clicked", "category_id")))


def _two_of(n: Column) -> Column:
    return F.shiftright(n * (n - 1), 1)


def pair_counts(pairs: DataFrame) -> DataFrame:
    """Rows of PAIRS -> rows of PAIR_COUNTS: the weighted, unbiased number of pages that held two items as each kind of pair."""
    one = F.explode(F.arrays_zip("left_item", "right_item", "kind", "weight")).alias("p")
    # Whole numbers add up to the same in any order; doubles do not, and the digest of a day would depend on its partitions.
    weight = F.round(F.col("p.weight") * _WEIGHT_UNITS).cast("long")
    sums = [(F.sum(F.when(F.col("p.kind") == kind, weight).otherwise(0)) / _WEIGHT_UNITS).alias(kind) for kind in PAIR_KINDS]
    items = (F.col("p.left_item").alias("item_a"), F.col("p.right_item").alias("item_b"))
    return pairs.select("ds", one).groupBy("ds", *items).agg(*sums).select(*PAIR_COUNTS.columns)


@dataclass(frozen=True)
class _Pairs:
    """Pairs as numbers: `page` in the batch, `left` and `right` in its flattened items, `kind`, and the hash that samples."""

    page: Longs
    left: Longs
    right: Longs
    kind: Longs
    key: Keys

    def where(self, keep: Flags) -> "_Pairs":
        return _Pairs(self.page[keep], self.left[keep], self.right[keep], self.kind[keep], self.key[keep])

    @staticmethod
    def joined(parts: "list[_Pairs]") -> "_Pairs":
        names = ("page", "left", "right", "kind", "key")
        return _Pairs(*(np.concatenate([getattr(p, n) for p in parts]) for n in names))


@dataclass(frozen=True)
class _Batch:
    """The items of an Arrow batch of pages, flattened; `first` [pages + 1] is where each page starts."""

    first: Longs
    clicked: Longs
    item_key: Keys
    page_key: Keys

    @property
    def rows(self) -> tuple[Longs, Longs]:
        """Page of every item, and how many items of its page come after it (= pairs in which it is the left one)."""
        lengths = np.diff(self.first)
        page = np.repeat(np.arange(lengths.size), lengths)
        return page, self.first[page + 1] - 1 - np.arange(page.size)


def _sample_batches(batches: Iterator[pa.RecordBatch], cap: int, block: int) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        pairs = (batch.column(k).to_numpy() for k in PAIR_KINDS)
        ends = np.cumsum(np.sum(list(pairs), axis=0))
        start = 0
        while start < batch.num_rows:
            done = ends[start - 1] if start else 0
            stop = max(int(np.searchsorted(ends, done + block, "right")), start + 1)
            yield _sample(batch.slice(start, stop - start), cap, block)
            start = stop


def _sample(batch: pa.RecordBatch, cap: int, block: int) -> pa.RecordBatch:
    """Some pages with their samples. All have at most `block` pairs together, or it is a single page."""
    clicked, item_key = batch.column("_clicked"), batch.column("_item_key")
    flat = _Batch(_offsets(clicked), clicked.flatten().to_numpy(zero_copy_only=False).astype(np.int64),
                  item_key.flatten().to_numpy().view(np.uint64), batch.column("_page_key").to_numpy().view(np.uint64))
    counts = np.stack([batch.column(k).to_numpy() for k in PAIR_KINDS], axis=1)
    kept = _kept(flat, counts, cap, block)
    items, categories = batch.column("_item").flatten(), batch.column("_category").flatten()
    offsets = pa.array(np.searchsorted(kept.page, np.arange(batch.num_rows + 1)), pa.int32())
    weight = np.maximum(counts / cap, 1.0)[kept.page, kept.kind]
    left, right = pa.array(kept.left), pa.array(kept.right)
    columns = {
        "left_item": items.take(left), "right_item": items.take(right),
        "left_category": categories.take(left), "right_category": categories.take(right),
        "kind": pa.array(PAIR_KINDS).take(pa.array(kept.kind)), "weight": pa.array(weight)}
    lists = {name: pa.ListArray.from_arrays(offsets, values) for name, values in columns.items()}
    arrays = [lists.get(c) if c in lists else batch.column(c) for c in PAIRS.columns]
    return pa.RecordBatch.from_arrays(arrays, PAIRS.columns)


def _offsets(lists: pa.ListArray) -> Longs:
    """[rows + 1] offsets into `lists.flatten()`, also for a slice."""
    offsets = lists.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0]


def _kept(batch: _Batch, counts: Longs, cap: int, block: int) -> _Pairs:
    """The sample, ordered by page, left and right; rows of the pair triangle are taken at most about `block` pairs at a time."""
    page, after = batch.rows
    kept = _pairs_of(batch, page[:0], after[:0], 0)
    ends = np.cumsum(after)
    start = 0
    while start < page.size:
        done = ends[start - 1] if start else 0
        stop = max(int(np.searchsorted(ends, done + block, "right")), start + 1)
        new = _pairs_of(batch, page[start:stop], after[start:stop], start)
        kept = _capped(_Pairs.joined([kept, _possible(new, kept, cap)]), counts, cap)
        start = stop
    return kept


def _pairs_of(batch: _Batch, page: Longs, after: Longs, start: int) -> _Pairs:
    """Every pair whose left item is one of the items from `start` on."""
    left = np.repeat(np.arange(start, start + page.size), after)
    right = left + 1 + counted(after)
    clicks = batch.clicked[left] + batch.clicked[right]
    kind = np.array([_CO_NON_CLICK, _MONO_CLICK, _CO_CLICK])[clicks]
    # The hash of (page, left, right); its first two steps are the same for all pairs of a left item, so they are done once.
    begun = mixed(batch.page_key[page], batch.item_key[start:start + page.size])
    return _Pairs(np.repeat(page, after), left, right, kind, mixed(batch.item_key[right], begun=np.repeat(begun, after)))


def _possible(new: _Pairs, kept: _Pairs, cap: int) -> _Pairs:
    """`new` without the pairs above `cap` kept hashes of their kind. A page of several blocks is alone, so all are of one page."""
    if not kept.page.size:
        return new
    most = np.full(len(PAIR_KINDS), np.iinfo(np.uint64).max)
    for kind in range(len(PAIR_KINDS)):
        keys = kept.key[kept.kind == kind]
        if keys.size >= cap:
            most[kind] = keys.max()
    return new.where(new.key <= most[new.kind])


def _capped(pairs: _Pairs, counts: Longs, cap: int) -> _Pairs:
    keep = counts[pairs.page, pairs.kind] <= cap
    over = np.flatnonzero(~keep)
    group = pairs.page[over] * len(PAIR_KINDS) + pairs.kind[over]
    keep[over[smallest(group, pairs.key[over], cap)]] = True
    return pairs.where(keep)
