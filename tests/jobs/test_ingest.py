"""Ingest end to end on small raw logs: what comes out, what is refused, what stops the run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from feature_store.errors import InputError, MovelineError
from feature_store.recipe import Days, Recipe
from feature_store.tables import Lake
from jobs.ingest import build

DS, NEXT = "2026-03-02", "2026-03-03"
EVENTS = [{"from": "log", "columns": {"event_id": "id", "user_id": "user", "event_time": "at", "scene": "'shop'",
                                      "action": "'view'", "item_id": "item", "dwell_ms": "dwell"}}]
SHOWN = [{"from": "shown", "columns": {"page_id": "page", "user_id": "user", "shown_time": "at", "scene": "'shop'",
                                       "item_id": "item", "position": "place"}}]
CLICKS = [{"from": "clicked", "columns": {"page_id": "page", "user_id": "user", "item_id": "item", "click_time": "at"}}]
LOG = "id string, user string, at string, item string, dwell string"


def recipe(inputs: dict[str, Any] | None = None, **more: Any) -> Recipe:
    share = more.pop("max_reject_share", 0.5)
    source = {"inputs": inputs or {"log": {"path": "log"}}, "events": EVENTS, **more}
    return Recipe.model_validate({"name": "t", "source": source, "quality": {"max_reject_share": share}})


def events(n: int, day: str = DS) -> list[tuple[str, ...]]:
    return [(f"{day}-{i}", f"u{i}", f"{day} 10:00:{i:02d}", "a", "5") for i in range(n)]


Write = Callable[[str, list[tuple[Any, ...]], str], None]


@pytest.fixture
def write(spark: SparkSession, tmp_path: Path) -> Write:
    def _write(name: str, rows: list[tuple[Any, ...]], columns: str = LOG) -> None:
        spark.createDataFrame(rows, columns).coalesce(1).write.mode("overwrite").parquet(str(tmp_path / name))
    return _write


def test_hostile_rows_become_rejects_and_the_rest_goes_on(spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    bad = [("b1", None, f"{DS} 11:00:00", "a", "1"), ("b2", "u", f"{DS} 11:00:00", "x" * 1_000_000, "1"),
           ("b3", "u", f"{DS} 11:00:00", "a", "long"), ("b4", "u", "soon", "a", "1"), (f"{DS}-0", "u0", f"{DS} 10:00:00", "a", "5")]
    write("log", events(8) + bad + events(2, NEXT), LOG)
    [result] = build(spark, recipe(), lake, DS, str(tmp_path), "conf/t.yaml")
    assert (result.status, result.rows) == ("built", 8)
    assert result.counts == {"in": 13, "out": 8, "reject.null_user_id": 1, "reject.item_id_too_long": 1, "reject.bad_dwell_ms": 1,
                             "reject.bad_event_time": 1, "reject.duplicate_event": 1}
    rejects = {r.reason: r for r in lake.read(spark, "rejects").collect()}
    assert len(rejects) == 5 and rejects["item_id_too_long"].row_key == "b2" and len(rejects["item_id_too_long"].row) == 2_000
    assert '"dwell":"long"' in rejects["bad_dwell_ms"].row
    [again] = build(spark, recipe(), lake, DS, str(tmp_path), "conf/t.yaml")
    assert again.status == "skipped" and again.counts == result.counts


def test_rows_outside_the_days_of_a_recipe_are_told_of_once(
        spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    write("log", [*events(3), *events(2, "2026-01-01"), *events(1, "2026-05-01")], LOG)
    content = recipe().model_copy(update={"days": Days.model_validate({"first": DS, "last": NEXT})})
    notes = [build(spark, content, lake, day, str(tmp_path), "conf/t.yaml")[0].note for day in (DS, NEXT)]
    assert notes[0] == ("3 rows of events (2026-01-01 to 2026-05-01) lie outside the recipe's days 2026-03-02 to 2026-03-03: "
                        "never read")
    assert "outside" not in notes[1]


def test_rows_of_a_days_folder_that_no_day_would_take_are_refused(
        spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    days = ["2026-02-27", "2026-02-28", "2026-03-01", DS, NEXT]
    rows = [(f"{n}", "u", f"{day} 10:00:00", "a", "5") for n, day in enumerate(days)]
    write(f"log/ds={DS}", [*rows, *events(4)], LOG)
    content = recipe({"log": {"path": "log/ds={ds}", "late_days": 2}})
    [result] = build(spark, content, lake, DS, str(tmp_path), "conf/t.yaml")
    # Two days back the run of that day reads this folder; what lies further back, or ahead, has no other chance to be seen.
    assert result.counts == {"in": 7, "out": 5, "reject.outside_day": 2}
    assert {r.row_key for r in lake.read(spark, "rejects").collect()} == {"0", "4"}
    write("log/ds=2026-02-28", events(1, "2026-02-28"), LOG)
    [earlier] = build(spark, content, lake, "2026-02-28", str(tmp_path), "conf/t.yaml")
    assert earlier.counts == {"in": 2, "out": 2}


def test_too_many_rejects_show_the_rejects_and_nothing_else(spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    write("log", [*events(1), ("b", None, f"{DS} 11:00:00", "a", "1")], LOG)
    with pytest.raises(InputError, match=r"events, ds=2026-03-02: 1 of 2 rows \(50.0%\) were rejected.*null_user_id 1"):
        build(spark, recipe(max_reject_share=0.1), lake, DS, str(tmp_path), "conf/t.yaml")
    assert lake.table("events").days() == [] and lake.table("rejects").read_arrow().num_rows == 1
    write("log", events(2), LOG)
    [result] = build(spark, recipe(max_reject_share=0.1), lake, DS, str(tmp_path), "conf/t.yaml")
    assert result.rows == 2 and lake.table("rejects").read_arrow().num_rows == 0  # the mended day has no stale rejects


def test_a_day_without_rows_is_legal_and_says_which_days_there_are(
        spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    write("log", events(2), LOG)
    [result] = build(spark, recipe(), lake, "2026-04-01", str(tmp_path), "conf/t.yaml")
    assert (result.rows, result.note) == (0, "no rows of this day; the input holds days 2026-03-02 to 2026-03-02")


def test_clicks_are_joined_and_one_on_an_item_not_shown_is_refused(
        spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    write("log", events(1), LOG)
    page = "page string, user string, at string, item string, place int"
    write("shown", [("p", "u", f"{DS} 23:59:00", "a", 0), ("p", "u", f"{DS} 23:59:00", "b", 1),
                    ("q", "u", f"{NEXT} 00:01:00", "a", 0)], page)
    click = "page string, user string, at string, item string"
    write("clicked", [("p", "u", f"{NEXT} 00:00:10", "b"), ("p", "u", f"{NEXT} 00:00:20", "b"), ("p", "u", f"{NEXT} 00:00:30", "c"),
                      ("q", "u", f"{NEXT} 00:02:00", "a"), ("lost", "u", f"{NEXT} 00:03:00", "a")], click)
    inputs = {name: {"path": name} for name in ("log", "shown", "clicked")}
    content = recipe(inputs, exposures=SHOWN, clicks=CLICKS)
    first = build(spark, content, lake, DS, str(tmp_path), "conf/t.yaml")[1]
    second = build(spark, content, lake, NEXT, str(tmp_path), "conf/t.yaml")[1]
    assert first.counts == {"in": 5, "out": 2, "click": 2, "reject.click_not_shown": 1}
    assert second.counts == {"in": 3, "out": 1, "click": 1, "reject.click_not_shown": 1}
    rows = {(r.page_id, r.item_id): r for r in lake.read(spark, "exposures").collect()}
    assert [(k, r.clicked, str(r.click_time)[11:], str(r.label_time)[11:]) for k, r in sorted(rows.items())] == [
        (("p", "a"), False, "", "23:59:00"), (("p", "b"), True, "00:00:10", "00:00:20"), (("q", "a"), True, "00:02:00", "00:02:00")]


def test_a_click_that_comes_too_late_for_its_page_is_refused_by_the_day_it_came_with(
        spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    days = ["2026-03-01", DS, NEXT]
    page = "page string, user string, at string, item string, place int"
    for day in days:
        write(f"shown/ds={day}", [(day, "u", f"{day} 12:00:00", item, 0) for item in "ab"], page)
    write("log", events(1), LOG)
    # All in the last folder: of its own page, of the day before's, of one whose run does not read it, and of none.
    clicked = [(NEXT, f"{NEXT} 12:01:00"), (DS, f"{DS} 12:01:00"), (days[0], f"{days[0]} 12:01:00"), (days[0], f"{DS} 12:01:00"),
               ("none", f"{DS} 12:01:00")]
    click = "page string, user string, at string, item string"
    write(f"clicked/ds={NEXT}", [(page, "u", at, "a") for page, at in clicked], click)
    write(f"clicked/ds={DS}", [(DS, "u", f"{DS} 12:01:00", "b")], click)
    inputs = {"log": {"path": "log"}, "shown": {"path": "shown/ds={ds}"}, "clicked": {"path": "clicked/ds={ds}", "late_days": 1}}
    content = recipe(inputs, exposures=SHOWN, clicks=CLICKS, max_reject_share=0.9)
    counts = [build(spark, content, lake, day, str(tmp_path), "conf/t.yaml")[1].counts for day in (DS, NEXT)]
    assert counts == [{"in": 4, "out": 2, "click": 2},
                      {"in": 6, "out": 2, "click": 1, "reject.click_not_shown": 2, "reject.outside_day": 1}]


def test_malformed_csv_lines_are_rejects(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    lines = [f"e{i},u,{DS} 10:00:00,a,5" for i in range(9)]
    (tmp_path / "log.csv").write_text("\n".join([*lines, "e,u,too,many,1,2,3,4"]) + "\n")
    columns = "id STRING, user STRING, at STRING, item STRING, dwell LONG"
    content = recipe({"log": {"path": "log.csv", "format": "csv", "columns": columns}})
    [result] = build(spark, content, lake, DS, str(tmp_path), "conf/t.yaml")
    assert result.rows == 9 and result.note == "1 malformed lines of input 'log' rejected"
    [reject] = lake.read(spark, "rejects").collect()
    assert (reject.origin, reject.reason, "e,u,too,many" in reject.row) == ("input_log", "malformed", True)


def test_corrupt_and_missing_files_and_failing_expressions_are_one_line_errors(
        spark: SparkSession, lake: Lake, tmp_path: Path, write: Write) -> None:
    def message(content: Recipe) -> str:
        with pytest.raises(MovelineError) as caught:
            build(spark, content, lake, DS, str(tmp_path), "conf/t.yaml")
        assert "\n" not in str(caught.value) and lake.table("events").days() == []
        return str(caught.value)

    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is no Parquet file PAR1")
    found = message(recipe({"log": {"path": "broken.parquet"}}))
    assert "broken.parquet is corrupt or not of the configured format" in found
    assert "input 'log': no data at" in message(recipe({"log": {"path": "absent.parquet"}}))
    write("log", events(1), LOG)
    columns: Any = EVENTS[0]["columns"]
    failing = recipe(events=[{"from": "log", "columns": {**columns, "seq": "cast(item as int)"}}])
    assert "The value 'a' of the type" in message(failing)
    write("log", [(1,)], "other int")
    # `user` is also the name of a function of Spark, which would quietly give its own account.
    assert "source.events[0].columns.user_id: 'user': there is no column `user`; the columns are other" in message(recipe())
