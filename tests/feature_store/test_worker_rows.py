"""Rows written by Spark's Python workers: the rows and the digest that Spark's own writer gives, on a real SparkContext."""

import os
import uuid
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import DataFrame, SparkSession

from feature_store import worker_rows
from feature_store.contracts import MOVELINES, TIME
from feature_store.errors import TableError
from feature_store.tables import Lake
from feature_store.worker_rows import WorkerRows

DAY = "2026-01-05"
STORED = pa.schema([f for f in MOVELINES.schema if f.name != "ds"])


def batch(numbers: list[int], schema: pa.Schema) -> pa.RecordBatch:
    """A user of n tokens for each number n, with nulls where tokens may have them."""
    texts = [[None if k % 3 == 0 else f"i{k}" for k in range(n)] for n in numbers]
    times = pa.array([[1_767_571_200_000_000 + k for k in range(n)] for n in numbers], pa.list_(pa.int64())).cast(pa.list_(TIME))
    of = {"user_id": [f"u{n}" for n in numbers], "n_tokens": numbers, "n_over_cap": [0] * len(numbers),
          "dwell_ms": [[None] * n for n in numbers], "unused": [""] * len(numbers)}
    arrays = [times if field.type == pa.list_(TIME) else pa.array(of.get(field.name, texts), field.type) for field in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def users(batches: Iterator[pa.RecordBatch], schema: pa.Schema = STORED) -> Iterator[pa.RecordBatch]:
    for own in batches:
        yield batch([n for n in own["id"].to_pylist() if n % 10], schema)
        yield batch([], schema)


def rows(spark: SparkSession, count: int, schema: pa.Schema = STORED) -> WorkerRows:
    return WorkerRows(spark.range(0, count, 1, 3), partial(users, schema=schema), schema)


def written(lake: Lake, made: WorkerRows) -> tuple[str, int]:
    commit = lake.table("movelines").begin(DAY).commit(made, counts={}, inputs={"x": "1"})
    return commit.digest, commit.rows


def test_a_day_is_the_same_whether_spark_or_the_workers_write_it(spark: SparkSession, tmp_path: Path) -> None:
    mounted, remote = Lake(str(tmp_path / "a")), Lake(f"file://{tmp_path}/b")  # of an address, Spark writes
    other_order = pa.schema([*reversed(STORED), pa.field("unused", pa.string())])
    found = [written(lake, rows(spark, 25, schema)) for lake, schema in
             ((mounted, STORED), (remote, STORED), (Lake(str(tmp_path / "c")), other_order))]
    assert len(set(found)) == 1 and found[0][1] == 22
    read = [lake.read(spark, "movelines").orderBy("n_tokens").collect() for lake in (mounted, remote)]
    assert read[0] == read[1] and [r.n_tokens for r in read[0]] == [n for n in range(25) if n % 10]
    assert read[0][5].item_id == [None, "i1", "i2", None, "i4", "i5"]
    assert mounted.table("movelines").read_arrow([DAY]).num_rows == 22
    names = [[Path(f).name for f in lake.table("movelines").files()] for lake in (mounted, remote)]
    assert [name.split("-")[1] for name in names[0]] == ["00000", "00001", "00002"]
    assert not mounted.table("movelines").orphans(older_than_s=0)


def test_a_day_without_rows_and_partitions_without_rows(spark: SparkSession, lake: Lake) -> None:
    assert written(lake, rows(spark, 25))[1] == 22
    assert written(lake, rows(spark, 2))[1] == 1 and len(lake.table("movelines").files([DAY])) == 1
    assert written(lake, rows(spark, 1))[1] == 0 and lake.read(spark, "movelines").count() == 0


def test_a_file_of_a_task_that_ran_twice_is_no_part_of_the_day(spark: SparkSession, lake: Lake) -> None:
    table = Path(lake.table("movelines").path)

    def twice(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        [run] = table.glob(f"ds={DAY}/run=*")
        made = list(users(batches))
        pq.write_table(pa.Table.from_batches(made), run / f"part-00000-{os.getpid()}-twin.parquet")
        yield from made

    assert written(lake, WorkerRows(spark.range(0, 25, 1, 3), twice, STORED))[1] == 22
    assert lake.read(spark, "movelines").count() == 22
    assert len(lake.table("movelines").orphans(older_than_s=0)) >= 1


def counted(batches: Iterator[pa.RecordBatch], ran: Path) -> Iterator[pa.RecordBatch]:
    """The rows of `users`, and how many numbers were left out and seen; each run of it leaves a file."""
    (ran / uuid.uuid4().hex).touch()
    for own in batches:
        yield from users(iter([own]))
        numbers = own["id"].to_pylist()
        yield pa.RecordBatch.from_pydict({"out": [sum(n % 10 == 0 for n in numbers)], "seen": [len(numbers)]})


@pytest.mark.parametrize("count", [25, 1, 0])
def test_what_is_counted_beside_the_rows_is_added_up_and_no_row(spark: SparkSession, tmp_path: Path, count: int) -> None:
    ran = tmp_path / "ran"
    ran.mkdir()
    made, told = WorkerRows(spark.range(0, count, 1, 3), partial(counted, ran=ran), STORED, ("out", "seen")), []

    def counts(rows: DataFrame, beside: Mapping[str, int]) -> dict[str, int]:
        told.append((rows.count(), dict(beside)))
        return dict(beside)

    commits = [lake.table("movelines").begin(DAY).commit(made, counts=counts, inputs={"x": "1"})
               for lake in (Lake(str(tmp_path / "a")), Lake(f"file://{tmp_path}/b"))]
    out = len(range(0, count, 10))
    assert told == [(count - out, {"out": out, "seen": count})] * 2
    assert [(c.rows, c.counts, c.digest) for c in commits] == [(count - out, {"out": out, "seen": count}, commits[0].digest)] * 2
    assert len(list(ran.iterdir())) == (2 * 3 if count else 0)  # once a partition and lake; Spark starts none without rows
    assert rows(spark, count).counts_of(rows(spark, count).with_counts) == {}


def test_a_byte_that_changed_on_disk_is_an_error_and_no_row(spark: SparkSession, lake: Lake) -> None:
    written(lake, rows(spark, 25))
    path = Path(lake.table("movelines").files([DAY])[0].removeprefix("file://"))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises(Exception, match=r"(?i)checksum"):
        lake.read(spark, "movelines").collect()


def test_rows_that_do_not_meet_the_contract_are_refused(spark: SparkSession, lake: Lake) -> None:
    short = pa.schema([f for f in STORED if f.name not in ("scene", "n_tokens")])
    with pytest.raises(TableError, match="movelines: the rows to write lack the columns scene, n_tokens"):
        written(lake, rows(spark, 5, short))
    assert lake.table("movelines").days() == []


def test_row_groups_hold_whole_batches_up_to_their_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker_rows, "_GROUP_BYTES", 3_000)
    batches = [pa.RecordBatch.from_pydict({"id": list(range(first, first + 5))}) for first in range(1, 40, 5)]
    [named] = worker_rows._write_part(iter(batches), users, (), tmp_path, STORED)
    file = pq.ParquetFile(tmp_path / named["file"][0].as_py())
    sizes = [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)]
    assert len(sizes) > 3 and sum(sizes) == 36 and file.read()["n_tokens"].to_pylist() == [n for n in range(1, 41) if n % 10]
    assert file.metadata.row_group(0).column(0).compression == "ZSTD"
    assert {path.suffix for path in tmp_path.iterdir()} == {".parquet", ".crc"}
