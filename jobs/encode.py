"""Encoded sets: pages, pairs or flows of some windows of time as Parquet files of indexes, cached by what they are made from.

The cache key names the content of the days read, the vocabulary, the windows and the encoder's code. A set is written aside and
renamed when it is complete. Files are one a bucket of users, a user's pages lie together and no row group cuts a user.
"""

import functools
import itertools
import os
import shutil
import uuid
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedFile, EncodedSet, Kind, file_digest
from feature_store.encoding import BUCKET_ROWS, encode_flows, encode_pages, encode_pairs
from feature_store.errors import TableError
from feature_store.home import cache_root
from feature_store.negatives import Pool
from feature_store.recipe import Recipe
from feature_store.revision import source_digest
from feature_store.tables import Lake, Table
from feature_store.vocabulary import FIELDS, Vocabulary
from jobs.windows import Window, days_of, windows_for

_CODE = ("feature_store.encoding", "feature_store.folds", "feature_store.negatives", "feature_store.vocabulary", "jobs.encode")
_WRITTEN = "window string, name string, bytes long, rows long, items long, digest string"
_PAGES_A_FILE = 50_000
_GROUPS_A_SET = 32
_LARGEST_GROUP = {"pages": 2_000, "pairs": 65_536, "flows": 2_000}
_SMALLEST_GROUP = {"pages": 64, "pairs": 1_024, "flows": 64}
_ENCODERS = {"pages": encode_pages, "flows": encode_flows}
_OTHER_FOLD = "other_fold"
_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"


@dataclass(frozen=True)
class _Source:
    """How rows of a kind are read: when they are cut, when they close, what they list, and what ties of a cut are ordered by."""

    cut: str
    closed: str
    values: str
    refused: str
    ties: tuple[str, ...] = ()


_SOURCES: dict[Kind, _Source] = {
    "pages": _Source("cut_time", "label_time", "item_id", "open_label", ("page_id",)),
    "pairs": _Source("shown_time", "label_time", "left_item", "open_label", ("page_id",)),
    "flows": _Source("cut_time", "array_max(future_time)", "future_item", "late_future"),
}


def encode_training(spark: SparkSession, recipe: Recipe, lake: Lake, latest_day: str, table: str = "pages",
                    fold: int = 0) -> tuple[dict[str, EncodedSet], Vocabulary]:
    """The sets `train`, `validate` and `test` of one training run, and its vocabulary: ids available before the training rows end.

    Parameters
    ----------
    table : `pages`, `pages_at_click`, `pairs` or `flows`. fold : of the generator, with `split.generator_folds`.

    Raises as `encode`.
    """
    windows = windows_for(recipe, latest_day, _kind(table), fold)
    entries = lake.table("vocabulary").read_arrow()
    vocabulary = Vocabulary(entries, recipe.vocabulary_buckets).as_of(windows[0].end)
    return encode(spark, recipe, lake, windows, vocabulary, table), vocabulary


def _kind(table: str) -> Kind:
    return "pairs" if table == "pairs" else "flows" if table == "flows" else "pages"


def encode(spark: SparkSession, recipe: Recipe, lake: Lake, windows: Iterable[Window], vocabulary: Vocabulary,
           table: str = "pages") -> dict[str, EncodedSet]:
    """Encode the pages (or pairs, or flows) of some windows, or find them in the cache.

    Raises
    ------
    TableError : the table is missing, the rows written are not those of the table less the exclusions, or a cached file changed.
    """
    windows, source = tuple(windows), lake.table(table)
    days = days_of(windows)
    key = fingerprint({"days": source.digests(days), "vocabulary": vocabulary.digest, "table": table,
                       "windows": [asdict(w) for w in windows], "code": source_digest(*_CODE)})
    folder = cache_root(recipe.name) / "encoded" / key
    if not folder.is_dir():
        aside = folder.with_name(f".{key}-{uuid.uuid4().hex}")
        try:
            _encode_into(aside, spark, source, _Plan(aside, windows, days, key, vocabulary, _kind(table)))
            _put(aside, folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    sets = {w.name: EncodedSet.load(folder / w.name) for w in windows}
    for found in sets.values():
        found.verify()  # a cache outlives disks that fill and hands that edit: nothing else than was encoded is trained on
    return sets


@dataclass(frozen=True)
class _Plan:
    folder: Path
    windows: tuple[Window, ...]
    days: list[str]
    key: str
    vocabulary: Vocabulary
    kind: Kind

    @property
    def source(self) -> _Source:
        return _SOURCES[self.kind]


def _put(aside: Path, folder: Path) -> None:
    try:
        aside.rename(folder)
    except OSError:
        if not folder.is_dir():  # else another run has made the same set meanwhile
            raise


def _encode_into(folder: Path, spark: SparkSession, source: Table, plan: _Plan) -> None:
    for window in plan.windows:
        (folder / window.name).mkdir(parents=True)
    version = source.version()
    files = max(4, -(-sum(c.rows for c in map(source.day, plan.days) if c) // _PAGES_A_FILE))
    frame = (source.read(spark, plan.days, version).withColumn("_window", _window(plan))
             .withColumn("_bucket", F.pmod(F.xxhash64("user_id"), F.lit(files))))
    stats = [r.asDict() for r in _stats(frame, plan).collect()]
    written = _write(spark, frame, files, plan, _parts(stats, plan))
    for window in plan.windows:
        _finish(plan, window, source, version, [s for s in stats if s["_window"].split(".")[-1] == window.name], written)


def _window(plan: _Plan) -> Column:
    """Name of the window of a row; `<why>.<name>` when it closes too late or its user is not wanted, `outside` when in none."""
    found: Any = F
    for w in plan.windows:
        inside = (F.col(plan.source.cut) >= F.lit(w.start)) & (F.col(plan.source.cut) < F.lit(w.end))
        name = F.lit(w.name)
        limit = w.end if plan.kind == "flows" else w.closed_before
        if limit is not None:
            name = F.when(F.expr(plan.source.closed) < F.lit(limit), name).otherwise(F.lit(f"{plan.source.refused}.{w.name}"))
        if w.users is not None:
            own = F.expr(f"conv(left(md5(user_id), 8), 16, 10) % {w.users.folds} = {w.users.fold}")  # as feature_store.folds
            name = F.when(own if w.users.inside else ~own, name).otherwise(F.lit(f"{_OTHER_FOLD}.{w.name}"))
        found = found.when(inside, name)
    return found.otherwise(F.lit("outside"))


def _stats(frame: DataFrame, plan: _Plan) -> DataFrame:
    cut, last = (F.unix_micros(F.expr(c)) for c in
                 (plan.source.cut, plan.source.closed if plan.kind == "flows" else plan.source.cut))
    return (frame.groupBy("_window", "_bucket").agg(F.count("*").alias("pages"), F.countDistinct("user_id").alias("users"),
                                                    F.sum(F.size(plan.source.values)).alias("values"), F.min(cut).alias("first"),
                                                    F.max(last).alias("last")).orderBy("_window", "_bucket"))


@dataclass(frozen=True)
class _Part:
    """What the writer of one file needs: the numbers its pages and users start from, and the pages of a row group."""

    first_row: int
    first_user: int
    pages_a_group: int


def _parts(stats: list[dict[str, Any]], plan: _Plan) -> dict[tuple[str, int], _Part]:
    parts: dict[tuple[str, int], _Part] = {}
    for window in plan.windows:
        own = [s for s in stats if s["_window"] == window.name]
        pages, values = sum(s["pages"] for s in own), sum(s["values"] for s in own)
        rows = values if plan.kind == "pairs" else pages
        group = min(max(rows // _GROUPS_A_SET, _SMALLEST_GROUP[plan.kind]), _LARGEST_GROUP[plan.kind])
        size = max(1, group * pages // max(rows, 1))
        rows_before = itertools.accumulate((s["pages"] for s in own), initial=0)
        users_before = itertools.accumulate((s["users"] for s in own), initial=0)
        parts.update({(window.name, s["_bucket"]): _Part(row, user, size)
                      for s, row, user in zip(own, rows_before, users_before, strict=False)})
    return parts


def _write(spark: SparkSession, frame: DataFrame, files: int, plan: _Plan,
           parts: Mapping[tuple[str, int], _Part]) -> list[dict[str, Any]]:
    words = spark.sparkContext.broadcast(plan.vocabulary)
    arranged = (frame.where(F.col("_window").isin([w.name for w in plan.windows])).repartition(files, "_window", "_bucket")
                .sortWithinPartitions("_window", "_bucket", "user_id", plan.source.cut, *plan.source.ties))
    work = functools.partial(_write_files, folder=str(plan.folder), kind=plan.kind, words=words, parts=dict(parts))
    before = spark.conf.get(_BATCH)
    spark.conf.set(_BATCH, str(_LARGEST_GROUP["pages"]))  # a page is wide: a task holds some thousands of them at most
    try:
        return [r.asDict() for r in arranged.mapInArrow(work, _WRITTEN).orderBy("window", "name").collect()]
    finally:
        spark.conf.set(_BATCH, str(before))
        words.unpersist()


def _write_files(batches: Iterator[pa.RecordBatch], folder: str, kind: Kind, words: Any, parts: Mapping[tuple[str, int], _Part],
                 ) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers: one file a window and bucket; yields a row about each."""
    runs = (run for batch in batches for run in _runs(pa.Table.from_batches([batch])))
    for (window, bucket), own in itertools.groupby(runs, key=lambda run: run[0]):
        about = _write_file(Path(folder) / window / f"part-{bucket:05d}.parquet", (table for _, table in own), kind, words.value,
                            parts[window, bucket])
        yield pa.RecordBatch.from_pylist([{"window": window, **asdict(about)}])


def _runs(table: pa.Table) -> Iterator[tuple[tuple[str, int], pa.Table]]:
    """Stretches of rows of one window and bucket."""
    if not len(table):
        return
    window, bucket = table["_window"].combine_chunks().dictionary_encode(), table["_bucket"].to_numpy()
    change = (np.diff(window.indices.to_numpy()) != 0) | (np.diff(bucket) != 0)
    for begin, end in itertools.pairwise([0, *(np.flatnonzero(change) + 1).tolist(), len(table)]):
        yield (window[begin].as_py(), int(bucket[begin])), table.slice(begin, end - begin)


def _write_file(path: Path, tables: Iterator[pa.Table], kind: Kind, words: Vocabulary, part: _Part) -> EncodedFile:
    row, user, rows, items, writer = part.first_row, part.first_user, 0, 0, None
    aside = path.with_name(f".{path.name}-{uuid.uuid4().hex}")  # a task that Spark starts twice does not write into its twin's file
    for own in _whole_users(tables, part.pages_a_group):
        encoded = encode_pairs(own, words, row) if kind == "pairs" else _ENCODERS[kind](own, words, row, user)
        writer = writer or pq.ParquetWriter(aside, encoded.schema, compression="zstd")
        if len(encoded):
            writer.write_table(encoded, row_group_size=len(encoded))
        row, rows = row + len(own), rows + len(encoded)
        user = user if kind == "pairs" else int(encoded["user"][-1].as_py()) + 1
        items += len(encoded) if kind == "pairs" else int(encoded["n_items"].to_numpy().sum())
    if writer is None:
        raise TableError(f"{path}: no rows to write; report this as a bug")
    writer.close()
    os.replace(aside, path)
    return EncodedFile(path.name, path.stat().st_size, rows, items, file_digest(path))


def _whole_users(tables: Iterator[pa.Table], size: int) -> Iterator[pa.Table]:
    """Tables of at least `size` rows (the last may be shorter) that end where a user does; rows of a user lie together."""
    rest: pa.Table | None = None
    for table in tables:
        rest = table if rest is None else pa.concat_tables([rest, table])
        while rest is not None and len(rest) > size:
            users = rest["user_id"].combine_chunks().dictionary_encode().indices.to_numpy()
            ends = np.flatnonzero(np.diff(users[size - 1:])) + size
            if not len(ends):
                break
            yield rest.slice(0, int(ends[0]))
            rest = rest.slice(int(ends[0]))
    if rest is not None and len(rest):
        yield rest


def _finish(plan: _Plan, window: Window, source: Table, version: int, stats: list[dict[str, Any]],
            written: list[dict[str, Any]]) -> None:
    files = tuple(EncodedFile(**{k: v for k, v in w.items() if k != "window"}) for w in written if w["window"] == window.name)
    taken = [s for s in stats if s["_window"] == window.name]
    pages, values = (sum(s[k] for s in taken) for k in ("pages", "values"))
    rows, promised = sum(f.rows for f in files), values if plan.kind == "pairs" else pages
    if (rows, sum(f.items for f in files)) != (promised, values):
        raise TableError(f"encoding {plan.kind}, window {window.name}: {promised} rows were to be written, {rows} were; "
                         "report this as a bug")
    table_rows = {f: plan.vocabulary.rows(f) for f in FIELDS} | BUCKET_ROWS
    made = EncodedSet(
        str(plan.folder / window.name), window.name, plan.kind, plan.key, files, table_rows, plan.vocabulary.digest,
        source.contract.name, version, tuple(d for d in plan.days if d in days_of((window,))), _counts(plan, window, stats),
        min((s["first"] for s in taken), default=0), max((s["last"] for s in taken), default=0))
    if plan.kind == "flows":
        Pool.of(made.paths).save(made.pool)
        made = replace(made, pool_digest=file_digest(Path(made.pool)))
    made.save()


def _counts(plan: _Plan, window: Window, stats: list[dict[str, Any]]) -> dict[str, int]:
    """Rows whose cut lies in the window, those taken, and those left out by reason."""
    found = {"in": window.name, "out": window.name, plan.source.refused: f"{plan.source.refused}.{window.name}"}
    found |= {} if window.users is None else {_OTHER_FOLD: f"{_OTHER_FOLD}.{window.name}"}
    counts = {key: sum(s["pages"] for s in stats if s["_window"] == name) for key, name in found.items()}
    return counts | {"in": sum(s["pages"] for s in stats)}
