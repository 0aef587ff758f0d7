"""The vocabulary job: append-only indexes, on a real lake."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import SparkSession

from feature_store.errors import ConfigError, ConflictError
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs.vocabulary import build
from tests.jobs.naive import frame

DAYS = ("2026-01-05", "2026-01-06")
SOURCE = {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}]}


def recipe(buckets: int = 4) -> Recipe:
    return Recipe.model_validate({"name": "tiny", "source": SOURCE, "vocabulary_buckets": buckets})


def write(spark: SparkSession, lake: Lake, name: str, ds: str, rows: list[dict[str, Any]]) -> None:
    lake.table(name).begin(ds).commit(frame(spark, name, [{"ds": ds, **row} for row in rows]), counts={}, inputs={})


def event(ds: str, item: str | None, hour: int = 1, action: str = "click") -> dict[str, Any]:
    time = datetime.fromisoformat(ds).replace(tzinfo=UTC) + timedelta(hours=hour)
    return {"event_id": f"{item}{hour}{action}", "user_id": "u", "event_time": time, "seq": 0, "available_time": time,
            "scene": "home", "action": action, "item_id": item, "op": "upsert"}


def shown(ds: str, item: str, trigger: str) -> dict[str, Any]:
    time = datetime.fromisoformat(ds).replace(tzinfo=UTC) + timedelta(hours=3)
    return {"page_id": "p", "user_id": "u", "shown_time": time, "label_time": time, "available_time": time, "scene": "home",
            "scenario": "feed", "trigger_item_id": trigger, "item_id": item, "position": 1, "viewed": True, "clicked": False}


def entries(lake: Lake) -> dict[tuple[str, str], tuple[int, str, datetime]]:
    rows = lake.table("vocabulary").read_arrow().to_pylist()
    assert len({(r["field"], r["id"]) for r in rows}) == len({(r["field"], r["index"]) for r in rows}) == len(rows)
    return {(r["field"], r["id"]): (r["index"], r["ds"], r["first_time"]) for r in rows}


def two_days(spark: SparkSession, lake: Lake) -> None:
    write(spark, lake, "events", DAYS[0], [event(DAYS[0], "b", 5), event(DAYS[0], "b", 2), event(DAYS[0], None, action="view")])
    write(spark, lake, "exposures", DAYS[0], [shown(DAYS[0], "a", "t")])
    write(spark, lake, "events", DAYS[1], [event(DAYS[1], "a"), event(DAYS[1], "0 sorts first but comes later")])


def test_ids_are_numbered_in_order_of_first_day_then_id(spark: SparkSession, lake: Lake) -> None:
    two_days(spark, lake)
    first, second = (build(spark, recipe(), lake, ds) for ds in DAYS)
    found = entries(lake)
    assert {k[1]: v[0] for k, v in found.items() if k[0] == "item"} == {"a": 5, "b": 6, "t": 7, "0 sorts first but comes later": 8}
    assert {k[1]: v[0] for k, v in found.items() if k[0] == "action"} == {"click": 5, "view": 6}
    assert found["item", "b"][1:] == (DAYS[0], datetime(2026, 1, 5, 2, tzinfo=UTC))
    assert first.counts == {"in": 7, "known": 0, "new": 7}
    assert second.counts == {"in": 4, "known": 3, "new": 1}


def test_a_day_run_again_keeps_its_bytes_and_a_late_id_goes_to_the_end(spark: SparkSession, lake: Lake) -> None:
    two_days(spark, lake)
    for ds in DAYS:
        build(spark, recipe(), lake, ds)
    before, digest = entries(lake), lake.table("vocabulary").day(DAYS[0]).digest  # type: ignore[union-attr]
    assert build(spark, recipe(), lake, DAYS[0]).status == "skipped"
    write(spark, lake, "items", DAYS[0], [{"item_id": "b", "valid_from": datetime(2026, 1, 5, tzinfo=UTC),
                                           "available_time": datetime(2026, 1, 5, tzinfo=UTC)}])
    again = build(spark, recipe(), lake, DAYS[0])
    assert (again.status, again.rows, lake.table("vocabulary").day(DAYS[0]).digest) == ("unchanged", 7, digest)  # type: ignore[union-attr]
    write(spark, lake, "events", DAYS[0], [event(DAYS[0], "b"), event(DAYS[0], "late")])
    build(spark, recipe(), lake, DAYS[0])
    after = entries(lake)
    assert after == before | {("item", "late"): (9, DAYS[0], datetime(2026, 1, 5, 1, tzinfo=UTC))}


def test_two_days_at_once_never_share_an_index(spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    two_days(spark, lake)
    from jobs import vocabulary as job

    real, started = job.new_entries, []

    def slow(*args: Any) -> Any:
        if not started:  # while the first day is being computed, the second one is built and committed
            started.append(True)
            build(spark, recipe(), lake, DAYS[1])
        return real(*args)

    monkeypatch.setattr(job, "new_entries", slow)
    build(spark, recipe(), lake, DAYS[0])
    assert len(entries(lake)) == 8


def test_of_two_commits_of_different_days_the_later_one_fails(spark: SparkSession, lake: Lake) -> None:
    table = lake.table("vocabulary")
    first, second = table.begin(DAYS[0]), table.begin(DAYS[1])
    nothing = lake.read(spark, "vocabulary")
    first.commit(nothing, counts={}, inputs={"run": "1"})
    with pytest.raises(ConflictError, match="another writer"):
        second.commit(nothing, counts={}, inputs={"run": "2"})


def test_an_empty_day_adds_nothing(spark: SparkSession, lake: Lake) -> None:
    assert build(spark, recipe(), lake, DAYS[0]).counts == {"in": 0, "known": 0, "new": 0}


def test_changing_the_number_of_buckets_is_refused(spark: SparkSession, lake: Lake) -> None:
    two_days(spark, lake)
    build(spark, recipe(), lake, DAYS[0])
    with pytest.raises(ConfigError, match="vocabulary_buckets is 5, but its vocabulary was started with 4"):
        build(spark, recipe(5), lake, DAYS[1])
