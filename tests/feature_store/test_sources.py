"""The YAML language of a source, against expectations written by hand."""

from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from feature_store.errors import ConfigError, InputError
from feature_store.recipe import Recipe
from feature_store.sources import BAD, Source

DS = "2026-03-02"
COLUMNS = {"user_id": "user", "event_time": "at", "scene": "'shop'", "action": "what", "item_id": "item"}


def recipe(inputs: dict[str, Any] | None = None, views: dict[str, Any] | None = None, **tables: Any) -> Recipe:
    tables.setdefault("events", [{"from": "log", "columns": COLUMNS}])
    inputs = inputs or {"log": {"path": "log"}}
    return Recipe.model_validate({"name": "t", "source": {"inputs": inputs, "views": views or {}, **tables}})


def source(spark: SparkSession, tmp_path: Path, content: Recipe, ds: str = DS) -> Source:
    return Source(spark, content, str(tmp_path), ds, "conf/t.yaml")


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("raw")
    rows = [("u1", "2026-03-02 10:00:00", "view", "a", ["a", "b"]), ("u1", "2026-03-02 10:00:00", "view", "a", ["a", "b"]),
            ("u2", "2026-03-03 00:00:00", "view", "b", ["c"]), ("u3", "yesterday", "click", "", [])]
    frame = spark.createDataFrame(rows, "user string, at string, what string, item string, shown array<string>").coalesce(1)
    frame.write.parquet(str(root / "log"))
    frame.limit(1).write.parquet(str(root / "by_day" / f"ds={DS}"))
    frame.where("user = 'u2'").write.parquet(str(root / "by_day" / "ds=2026-03-03"))
    return root


def test_a_day_has_its_rows_and_those_without_a_legible_time(spark: SparkSession, folder: Path) -> None:
    rows = source(spark, folder, recipe()).rows("events").orderBy("user_id", "event_id").collect()
    assert [(r.user_id, r.item_id, r[BAD], r.seq, r.op) for r in rows] == [
        ("u1", "a", None, 0, "upsert"), ("u1", "a", None, 0, "upsert"), ("u3", None, "bad_event_time", 0, "upsert")]
    assert rows[0].available_time == rows[0].event_time and rows[0].query is None


def test_identical_rows_get_numbered_ids_that_do_not_depend_on_partitions(spark: SparkSession, folder: Path) -> None:
    one = source(spark, folder, recipe())
    first = [r.event_id for r in one.rows("events", any_day=True).collect()]
    other = source(spark, folder, recipe())
    other._frames["log"] = spark.read.parquet(str(folder / "log")).repartition(3)
    assert len(set(first)) == 4 and sorted(first) == sorted(r.event_id for r in other.rows("events", any_day=True).collect())
    assert sorted(first)[1].startswith(sorted(first)[0]) or any(i.endswith("-2") for i in first)


def test_views_add_filter_explode_group_and_look_over_windows(spark: SparkSession, folder: Path) -> None:
    views = {
        "shown": {"from": "log", "steps": [
            {"add": {"n": "size(shown)", "double": "n * 2"}, "where": "n > 0", "explode": {"thing": "shown"}}]},
        "sums": {"from": "shown", "group_by": ["user"], "aggregate": {"things": "count(*)", "most": "max(double)"}},
        "walk": {"from": "log", "steps": [
            {"add": {"place": "count(*) over (partition by user order by at rows between unbounded preceding and 1 preceding)"}}]},
    }
    found = source(spark, folder, recipe(views=views))
    assert {tuple(r) for r in found._frame("sums", "x").collect()} == {("u1", 4, 4), ("u2", 1, 2)}
    assert sorted(r.place for r in found._frame("walk", "x").collect()) == [0, 0, 0, 1]


def test_a_row_without_an_array_stays_without_an_element_and_an_empty_array_goes(spark: SparkSession, folder: Path) -> None:
    views = {"shown": {"from": "log", "steps": [
        {"explode": {"thing": "transform(shown, (x, i) -> struct(i as place, x as item))"}}]}}
    rows = spark.createDataFrame([("a", ["x", "y"]), ("b", []), ("c", None)], "who string, shown array<string>")
    found = source(spark, folder, recipe(views=views))
    found._frames["log"] = rows
    kept = found._frame("shown", "x").select("who", "thing.place", "thing.item").collect()
    assert sorted(tuple(r) for r in kept if r.who == "a") == [("a", 0, "x"), ("a", 1, "y")]
    assert [tuple(r) for r in kept if r.who != "a"] == [("c", None, None)]


def test_late_folders_are_read_too_and_a_missing_one_is_not_an_error(spark: SparkSession, folder: Path) -> None:
    content = recipe({"log": {"path": "by_day/ds={ds}", "late_days": 2}})
    found = source(spark, folder, content)
    assert found.rows("events", any_day=True).count() == 2 and found.late_days() == 2
    one_day = recipe({"log": {"path": "by_day/ds={ds}"}})
    digests = source(spark, folder, one_day).digests("events")
    assert found.digests("events") != digests == source(spark, folder, one_day).digests("events")


def test_a_missing_file_is_named_with_its_fix_unless_it_is_optional(spark: SparkSession, folder: Path) -> None:
    with pytest.raises(InputError, match=r"input 'log': no data at .*/absent; correct --data or source.inputs.log.path"):
        source(spark, folder, recipe({"log": {"path": "absent"}})).rows("events")
    optional = recipe({"log": {"path": "absent", "optional": True, "columns": "user STRING, at STRING, what STRING, item STRING"}})
    assert source(spark, folder, optional).rows("events").count() == 0
    with pytest.raises(ConfigError, match=r"conf/t.yaml: source.inputs.log.columns: missing; an optional input needs them"):
        source(spark, folder, recipe({"log": {"path": "absent", "optional": True}})).rows("events")


@pytest.mark.parametrize(("change", "message"), [
    ({"columns": {**COLUMNS, "user_id": "usr"}},
     r"conf/t.yaml: source.events\[0\].columns.user_id: 'usr': there is no column `usr`; the columns are user, at"),
    ({"columns": {**COLUMNS, "user_id": "session_user"}},  # Spark's own account, were it not refused
     r"source.events\[0\].columns.user_id: 'session_user': there is no column `session_user`; the columns are user, at"),
    ({"columns": {**COLUMNS, "seq": "map('a', 1)"}}, r"source.events\[0\].columns.seq: .*cannot cast"),
    ({"columns": {**COLUMNS, "seq": "1 +"}}, r"source.events\[0\].columns.seq: '1 \+': Syntax error"),
    ({"columns": {**COLUMNS, "seq": "nofunction(1)"}}, r"source.events\[0\].columns.seq: .*nofunction"),
    ({"columns": {**COLUMNS, "colour": "1"}}, r"source.events\[0\].columns.colour: events has no such column"),
    ({"columns": {"user_id": "user"}}, r"source.events\[0\].columns.event_time: missing; events needs event_time, scene, action"),
    ({"columns": {**COLUMNS, "available_time": "now()"}},
     r"source.events\[0\].columns.available_time: 'now\(\)' uses the clock or chance"),
    ({"columns": COLUMNS, "where": "user"}, r"source.events\[0\].where: 'user': .*boolean"),
    ({"columns": COLUMNS, "from": "nowhere"}, r"source.events\[0\].from: 'nowhere': no such input or view; there are log"),
])
def test_a_wrong_mapping_is_a_config_error_that_names_file_key_and_reason(
        spark: SparkSession, folder: Path, change: dict[str, Any], message: str) -> None:
    content = recipe(events=[{"from": "log", **change}])
    with pytest.raises(ConfigError, match=message) as caught:
        source(spark, folder, content).rows("events")
    assert "\n" not in str(caught.value)


def test_a_wrong_view_is_a_config_error_that_names_its_step(spark: SparkSession, folder: Path) -> None:
    bad = {"v": {"from": "log", "steps": [{"add": {"x": "1"}}, {"where": "y = 1"}]}}
    with pytest.raises(ConfigError, match=r"source.views.v.steps\[1\].where: 'y = 1': there is no column `y`"):
        source(spark, folder, recipe(views=bad, events=[{"from": "v", "columns": COLUMNS}])).rows("events")
    loop = {"v": {"from": "w"}, "w": {"from": "v"}}
    with pytest.raises(ConfigError, match="takes its rows from itself"):
        source(spark, folder, recipe(views=loop, events=[{"from": "v", "columns": COLUMNS}])).rows("events")
