"""Rows that Spark's Python workers make, written as Parquet by the worker that made them.

A DataFrame of `mapInArrow` turns what a worker made into Spark's rows, which Spark's Parquet writer takes a value at a time: more
than half the CPU of a day of pages (docs/benchmarks.md, "Movelines, visits, pages"). A worker has them as columns already.
"""

import itertools
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from feature_store.session import spark_schema

Work = Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]]
_GROUP_BYTES = 256 << 20
"""Arrow bytes of a row group, and so what a worker holds beside what it works on."""
_SUMMED_BYTES = 4_096


@dataclass(frozen=True)
class WorkerRows:
    """Rows that `work` makes of each partition of `source`, in the order in which it makes them.

    Attributes
    ----------
    source : what the workers get. work : from the Arrow batches of a partition to those of the rows. schema : of these batches.
    beside : names of what the work counts beside its rows: a batch that has these columns alone is such counts and no rows.
    """

    source: DataFrame
    work: Work
    schema: pa.Schema
    beside: tuple[str, ...] = ()

    @property
    def frame(self) -> DataFrame:
        """The same rows as a DataFrame."""
        return self.source.mapInArrow(partial(_rows_alone, work=self.work, beside=self.beside), spark_schema(self.schema))

    @property
    def with_counts(self) -> DataFrame:
        """The rows and, among them, rows that hold nothing but what was counted beside: see `rows_of` and `counts_of`."""
        shape = pa.schema([*(f.with_nullable(True) for f in self.schema), *(pa.field(name, pa.int64()) for name in self.beside)])
        return self.source.mapInArrow(partial(_in_one_shape, work=self.work, schema=shape), spark_schema(shape))

    def rows_of(self, every: DataFrame) -> DataFrame:
        """The rows among those of `with_counts`, in the same order."""
        return every.where(F.col(self.beside[0]).isNull()).drop(*self.beside) if self.beside else every

    def counts_of(self, every: DataFrame) -> dict[str, int]:
        """What was counted beside, added up from `with_counts`."""
        sums = every.agg(*(F.sum(name).alias(name) for name in self.beside)).first() if self.beside else None
        return {name: int((sums[name] if sums else 0) or 0) for name in self.beside}

    def write(self, folder: Path, schema: pa.Schema) -> tuple[list[str], dict[str, int]]:
        """Write the columns of `schema` to files of a folder that every worker reaches by this path, one a partition with rows.

        A task that Spark starts twice writes another file; those returned, in the order of the partitions, hold every row once, and
        the counts beside them are of the same tasks.
        """
        folder.mkdir(parents=True, exist_ok=True)
        shape = ", ".join(["file string", *(f"{name} long" for name in self.beside)])
        work = partial(_write_part, work=self.work, beside=self.beside, folder=folder, schema=schema)
        found = self.source.mapInArrow(work, shape).collect()
        return sorted(row.file for row in found if row.file), {name: sum(row[name] for row in found) for name in self.beside}


class _Counts:
    """Sums of the counts that a work yields among its rows."""

    def __init__(self, names: tuple[str, ...]) -> None:
        self.sums = dict.fromkeys(names, 0)

    def without(self, batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        """The batches of rows; counts are added up on the way."""
        for batch in batches:
            if tuple(batch.schema.names) != tuple(self.sums):
                yield batch
                continue
            for name in self.sums:
                self.sums[name] += pc.sum(batch[name]).as_py() or 0

    def told(self, file: str | None) -> pa.RecordBatch:
        """What a task answers: its file, when it made one, and its sums."""
        columns = {"file": pa.array([file], pa.string()), **{name: pa.array([n], pa.int64()) for name, n in self.sums.items()}}
        return pa.RecordBatch.from_pydict(columns)


def _rows_alone(batches: Iterator[pa.RecordBatch], work: Work, beside: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    return _Counts(beside).without(work(batches))


def _in_one_shape(batches: Iterator[pa.RecordBatch], work: Work, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for batch in work(batches):
        found = dict(zip(batch.schema.names, batch.columns, strict=True))
        yield pa.RecordBatch.from_arrays([found.get(f.name, pa.nulls(batch.num_rows, f.type)) for f in schema], schema=schema)


def _write_part(batches: Iterator[pa.RecordBatch], work: Work, beside: tuple[str, ...], folder: Path,
                schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers."""
    counts = _Counts(beside)
    file = _write_file(_groups(counts.without(work(batches)), schema), folder, schema)
    yield counts.told(file)


def _write_file(groups: Iterator[pa.Table], folder: Path, schema: pa.Schema) -> str | None:
    """Write a file with its checksums and return its name; None when there are no rows."""
    first = next(groups, None)
    if first is None:
        return None
    task = TaskContext.get()
    number = task.partitionId() if task else 0
    path = folder / f"part-{number:05d}-{uuid.uuid4().hex}.parquet"
    aside = path.with_name(f".{path.name}")
    with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for group in itertools.chain([first], groups):
            writer.write_table(group, row_group_size=len(group))
    path.with_name(f".{path.name}.crc").write_bytes(_checksums(aside))
    os.replace(aside, path)
    return path.name


def _groups(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    held, size = list[pa.RecordBatch](), 0
    for batch in batches:
        if not batch.num_rows:
            continue
        held.append(batch.select(schema.names))
        size += held[-1].nbytes
        if size >= _GROUP_BYTES:
            yield pa.Table.from_batches(held).cast(schema)
            held, size = [], 0
    if held:
        yield pa.Table.from_batches(held).cast(schema)


def _checksums(path: Path) -> bytes:
    """What Hadoop's ChecksumFileSystem keeps beside a local file, and compares whenever Spark reads it: a mark, the bytes a sum is
    of, and the CRC-32 of every such stretch."""
    content = memoryview(path.read_bytes())
    sums = (zlib.crc32(content[at:at + _SUMMED_BYTES]) for at in range(0, len(content), _SUMMED_BYTES))
    return b"crc\0" + struct.pack(">I", _SUMMED_BYTES) + b"".join(struct.pack(">I", own) for own in sums)
