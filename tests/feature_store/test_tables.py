"""Delta tables: atomic replacement of a day, digests, versions, conflicts and orphans, on a real SparkContext."""

import os
import time
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession

from feature_store.contracts import CONTRACTS
from feature_store.errors import ConflictError, TableError
from feature_store.revision import code_revision
from feature_store.row_digest import row_digest
from feature_store.session import spark_schema
from feature_store.tables import Lake, Table

DAY = "2026-01-05"


def vocabulary(spark: SparkSession, ids: list[str], ds: str = DAY) -> DataFrame:
    rows = [("item", i, n, datetime(2026, 1, 5, tzinfo=UTC), ds) for n, i in enumerate(ids)]
    return spark.createDataFrame(rows, spark_schema(CONTRACTS["vocabulary"].schema))


def write(table: Table, frame: DataFrame, ds: str = DAY, inputs: dict[str, str] | None = None) -> object:
    return table.begin(ds).commit(frame, counts={"in": 1}, inputs=inputs or {})


def ids(spark: SparkSession, table: Table, **kw: object) -> list[str]:
    return sorted(r.id for r in table.read(spark, **kw).collect())  # type: ignore[arg-type]


def test_replacing_a_day_leaves_other_days_and_older_versions(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    first = write(table, vocabulary(spark, ["a", "b"]))
    write(table, vocabulary(spark, ["z"], "2026-01-06"), "2026-01-06")
    write(table, vocabulary(spark, ["c"]))
    assert ids(spark, table) == ["c", "z"]
    assert ids(spark, table, version=first.version) == ["a", "b"]  # type: ignore[attr-defined]
    assert first.revision == code_revision()  # type: ignore[attr-defined]
    assert table.days() == [DAY, "2026-01-06"]
    assert table.read_arrow([DAY], ["id", "ds"]).to_pydict() == {"id": ["c"], "ds": [DAY]}


def test_digest_does_not_depend_on_order_or_partitions(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    frame = vocabulary(spark, ["a", "b", "c", "d"])
    one = table.begin(DAY).commit(frame.coalesce(1), counts={}, inputs={"x": "1"}, arranged=True)
    backwards = frame.repartition(3).orderBy("index", ascending=False)
    two = table.begin(DAY).commit(backwards, counts={}, inputs={"x": "2"}, arranged=True)
    other = write(table, vocabulary(spark, ["a", "b", "d", "c"]))
    assert one.digest == two.digest != other.digest  # type: ignore[attr-defined]


@pytest.mark.parametrize(("kind", "left", "right"), [
    ("a string, b string", ("x", None), (None, "x")),
    ("a array<string>, b array<string>", (["x"], ["y", "z"]), (["x", "y"], ["z"])),
    ("a array<string>", (["x", None],), ([None, "x"],)),
    ("a array<string>", (["x", None],), (["x"],)),
    ("a array<string>", ([],), (None,)),
    ("a array<string>", ([None],), ([],)),
    ("a map<string,string>", ({"x": "y"},), ({"x": None},)),
    ("a map<string,string>", ({"x": None, "y": "z"},), ({"x": "z", "y": None},)),
])
def test_rows_that_differ_in_nulls_or_in_where_a_list_ends_have_other_digests(
        spark: SparkSession, kind: str, left: tuple, right: tuple) -> None:
    frames = [spark.createDataFrame([row], kind) for row in (left, right, left)]
    found = [frame.agg(*row_digest(frame, frame.columns)).first() for frame in frames]
    assert found[0] == found[2] and found[0] != found[1] and found[0][0] != found[0][1]


def test_an_empty_day_clears_what_was_there(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    write(table, vocabulary(spark, ["a"]))
    commit = write(table, vocabulary(spark, []))
    assert table.read(spark).count() == 0 and commit.rows == 0  # type: ignore[attr-defined]


def test_unchanged_content_from_unchanged_inputs_is_not_committed_again(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    write(table, vocabulary(spark, ["a"]), inputs={"x": "1"})
    version = table.version()
    write(table, vocabulary(spark, ["a"]), inputs={"x": "1"})
    assert table.version() == version
    found = table.day(DAY)
    assert found and found.made_from({"x": "1"}) and not found.made_from({"x": "2"})


@pytest.mark.parametrize("exists", [False, True])
def test_of_two_writers_of_a_day_one_wins(spark: SparkSession, lake: Lake, exists: bool) -> None:
    table = Table(lake.root, replace(CONTRACTS["vocabulary"], serial=False))
    if exists:
        write(table, vocabulary(spark, ["old"]))
    first, second, elsewhere = table.begin(DAY), table.begin(DAY), table.begin("2026-01-09")
    first.commit(vocabulary(spark, ["first"]), counts={}, inputs={"w": "1"})
    with pytest.raises(ConflictError, match="another writer committed it"):
        second.commit(vocabulary(spark, ["second"]), counts={}, inputs={"w": "2"})
    elsewhere.commit(vocabulary(spark, ["other day"], "2026-01-09"), counts={}, inputs={})
    assert ids(spark, table) == ["first", "other day"]


def test_orphans_are_removed_only_past_the_age(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    write(table, vocabulary(spark, ["a"]))
    write(table, vocabulary(spark, ["b"]))
    stray = Path(table.path) / f"ds={DAY}" / "run=dead" / "part-0.parquet"
    stray.parent.mkdir()
    stray.write_bytes(b"half")
    assert table.clean_orphans(older_than_s=3600) == []
    os.utime(stray, (time.time() - 7200,) * 2)
    assert str(stray) in table.clean_orphans(older_than_s=3600)
    assert ids(spark, table) == ["b"] and ids(spark, table, version=1) == ["a"]


def test_missing_columns_and_unknown_tables_are_named(spark: SparkSession, lake: Lake) -> None:
    with pytest.raises(TableError, match="lack the columns first_time"):
        write(lake.table("vocabulary"), vocabulary(spark, ["a"]).drop("first_time"))
    with pytest.raises(TableError, match="no table is called 'nope'"):
        lake.table("nope")
    with pytest.raises(TableError, match="does not exist"):
        lake.table("pages").version()


@pytest.mark.parametrize("value", ["../../else", "2026-03-01/..", "/etc", "", ".", "a b", "2026-03-01\n"])
def test_a_day_cannot_lead_out_of_its_table(lake: Lake, value: str) -> None:
    with pytest.raises(TableError, match=r"table rejects: .* cannot be a day or another value of a partition"):
        lake.table("rejects").begin(value, origin="events")
    with pytest.raises(TableError, match="table rejects: "):
        lake.table("rejects").begin(DAY, origin=value)
    assert not lake.table("rejects").exists()


def test_a_checkpoint_that_cannot_be_written_does_not_undo_the_commit_before_it(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    for n in range(8):
        write(table, vocabulary(spark, [f"i{n}"]), inputs={"x": str(n)})
    for version in range(8, 12):  # a folder in the place of the file
        (Path(table.path) / "_delta_log" / f"{version:020d}.checkpoint.parquet").mkdir()
    for n in range(8, 12):
        write(table, vocabulary(spark, [f"i{n}"]), inputs={"x": str(n)})
        assert ids(spark, table) == [f"i{n}"]


def test_of_two_writers_of_the_same_content_one_wins(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    write(table, vocabulary(spark, ["a"]), inputs={"x": "1"})
    late = table.begin(DAY)
    write(table, vocabulary(spark, ["b"]), inputs={"x": "2"})
    with pytest.raises(ConflictError):
        late.commit(vocabulary(spark, ["a"]), counts={"in": 1}, inputs={"x": "1"})
    assert ids(spark, table) == ["b"]
