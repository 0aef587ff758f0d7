"""Rows that Spark's Python workers make, written as Parquet by the worker that made them.

A DataFrame of `mapInArrow` turns what a worker made into Spark's rows, which Spark's Parquet writer takes a value at a time: more
than half the CPU of a day of pages (docs/benchmarks.md, "Movelines, visits, pages"). A worker has them as columns already.
"""

import itertools
import os
import struct
import uuid
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import TaskContext
from pyspark.sql import DataFrame

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
    """

    source: DataFrame
    work: Work
    schema: pa.Schema

    @property
    def frame(self) -> DataFrame:
        """The same rows as a DataFrame."""
        return self.source.mapInArrow(self.work, spark_schema(self.schema))

    def write(self, folder: Path, schema: pa.Schema) -> list[str]:
        """Write the columns of `schema` to files of a folder that every worker reaches by this path, one a partition with rows.

        A task that Spark starts twice writes another file; those returned, in the order of the partitions, hold every row once.
        """
        folder.mkdir(parents=True, exist_ok=True)
        part = partial(_write_part, work=self.work, folder=folder, schema=schema)
        return sorted(row.file for row in self.source.mapInArrow(part, "file string").collect())


def _write_part(batches: Iterator[pa.RecordBatch], work: Work, folder: Path, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers; yields the name of the file, when there is one."""
    groups = _groups(work(batches), schema)
    first = next(groups, None)
    if first is None:
        return
    task = TaskContext.get()
    number = task.partitionId() if task else 0
    path = folder / f"part-{number:05d}-{uuid.uuid4().hex}.parquet"
    aside = path.with_name(f".{path.name}")
    with pq.ParquetWriter(aside, schema, compression="zstd") as writer:
        for group in itertools.chain([first], groups):
            writer.write_table(group, row_group_size=len(group))
    path.with_name(f".{path.name}.crc").write_bytes(_checksums(aside))
    os.replace(aside, path)
    yield pa.RecordBatch.from_pydict({"file": [path.name]})


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
