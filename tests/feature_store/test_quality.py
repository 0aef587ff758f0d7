"""Quality rules on rows whose fate is written beside them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import EVENTS, EXPOSURES
from feature_store.errors import InputError
from feature_store.quality import STATUS, accounted, judged, refused, stored, within_limit
from feature_store.recipe import Mapping, Quality, Source
from feature_store.session import spark_schema
from feature_store.sources import BAD, RAW

NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
SOURCE = Source(inputs={}, events=[Mapping(**{"from": "x", "columns": {"event_id": "id"}})], scenes=["shop"], actions=["view"])
EVENT = {"event_id": "e", "user_id": "u", "event_time": NOON, "seq": 0, "available_time": NOON, "scene": "shop",
         "action": "view", "op": "upsert"}


def fates(spark: SparkSession, table: Any, rows: list[dict[str, Any]]) -> Any:
    fields = [f for f in spark_schema(table.schema).fields if f.name != "ds"]
    schema = ", ".join(f"`{f.name}` {f.dataType.simpleString()}" for f in fields)
    frame = spark.createDataFrame([tuple(r.get(f.name) for f in fields) for r in rows], schema)
    frame = frame.withColumn(RAW, F.to_json(F.struct("user_id"))).withColumn(BAD, F.lit(None).cast("string"))
    return judged(frame, table.name, Quality(), SOURCE, DataFrame.persist)


def test_each_bad_event_gets_one_reason(spark: SparkSession) -> None:
    late, huge = NOON + timedelta(seconds=301), "x" * 1_000_000
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "out"), ({"user_id": None}, "null_user_id"), ({"event_time": None}, "null_event_time"),
        ({"scene": None}, "null_scene"), ({"item_id": huge}, "item_id_too_long"), ({"dwell_ms": -1}, "negative_dwell_ms"),
        ({"query": "q" * 65_536, "attributes": {"a": "x" * 65_000, "b": "y"}}, "out"), ({"query": "ä" * 32_769}, "query_too_long"),
        ({"attributes": {"a": "x" * 32_768, "y" * 32_768: "b"}}, "attributes_too_long"),
        ({"scene": "moon"}, "unknown_scene"),
        ({"action": "fly"}, "unknown_action"), ({"op": "merge"}, "unknown_op"), ({"event_time": late}, "time_in_future"),
        ({"event_time": NOON + timedelta(seconds=300)}, "out"), ({"user_id": None, "scene": "moon"}, "null_user_id"),
    ]
    rows = fates(spark, EVENTS, [{**EVENT, "event_id": f"{n:02d}", **change} for n, (change, _) in enumerate(cases)]).cache()
    found = {r.event_id: r[STATUS] for r in rows.collect()}
    assert found == {f"{n:02d}": fate for n, (_, fate) in enumerate(cases)}
    written = refused(rows, "events", "2026-03-02").collect()
    assert len(written) == 12 and max(len(r.row) for r in written) <= 2_000 and {r.origin for r in written} == {"events"}
    rows.unpersist()


def test_the_newest_version_stands_and_every_other_row_is_named(spark: SparkSession) -> None:
    def at(minutes: int, **more: Any) -> dict[str, Any]:
        return {**EVENT, "available_time": NOON + timedelta(minutes=minutes), **more}

    rows = fates(spark, EVENTS, [
        at(0, event_id="again"), at(0, event_id="again"), at(5, event_id="again"),
        at(0, event_id="mended", item_id="old"), at(9, event_id="mended", item_id="new"),
        at(0, event_id="gone"), at(3, event_id="gone", op="delete"),
        at(0, event_id="clash", item_id="a"), at(0, event_id="clash", item_id="b"),
        at(0, event_id="deleted_alone", op="delete", scene=None),
        *(at(n, event_id="and_back", item_id=item) for n, item in ((0, "a"), (2, "b"), (4, "a"))),
        at(0, event_id="revived"), at(1, event_id="revived", op="delete"), at(1, event_id="revived", item_id="x"),
        at(6, event_id="revived"),
    ])
    found = sorted((r.event_id, r.available_time.minute, r[STATUS]) for r in rows.collect())
    assert found == sorted([
        ("again", 0, "out"), ("again", 0, "duplicate_event"), ("again", 5, "duplicate_event"),
        ("mended", 0, "superseded"), ("mended", 9, "out"), ("gone", 0, "deleted"), ("gone", 3, "deleted"),
        ("clash", 0, "out"), ("clash", 0, "duplicate_event"), ("deleted_alone", 0, "deleted"),
        ("and_back", 0, "superseded"), ("and_back", 2, "superseded"), ("and_back", 4, "out"),
        ("revived", 0, "superseded"), ("revived", 1, "superseded"), ("revived", 1, "duplicate_event"), ("revived", 6, "out")])
    kept = sorted(((r.event_id, r.available_time.minute, r.replaced_time and r.replaced_time.minute)
                  for r in stored(rows, "events").collect() if r.event_id not in ("again", "clash")), key=str)
    assert kept == sorted([("mended", 0, 9), ("mended", 9, None), ("gone", 0, 3), ("and_back", 0, 2), ("and_back", 2, 4),
                           ("and_back", 4, None), ("revived", 0, 1), ("revived", 6, None)], key=str)


def test_a_key_that_occurs_once_costs_no_shuffle_of_the_rows(spark: SparkSession) -> None:
    rows = fates(spark, EVENTS, [{**EVENT, "event_id": name} for name in ("a", "b", "c", "c")])
    assert sorted(r[STATUS] for r in rows.collect()) == ["duplicate_event", "out", "out", "out"]
    plan = rows._jdf.queryExecution().executedPlan().toString()
    assert plan.count("BroadcastHashJoin") >= 2 and "SortMergeJoin" not in plan, plan


def test_exposures_have_their_own_ranges(spark: SparkSession) -> None:
    good = {"page_id": "p", "user_id": "u", "shown_time": NOON, "label_time": NOON, "available_time": NOON, "scene": "shop",
            "scenario": "s", "item_id": "i", "position": 0, "viewed": True, "clicked": False}
    cases: list[tuple[dict[str, Any], str]] = [
        ({}, "out"), ({"position": -1}, "negative_position"), ({"price": float("nan")}, "price_out_of_range"),
        ({"price": -1.0}, "price_out_of_range"),
        ({"price": float("inf")}, "price_out_of_range"), ({"label_time": NOON - timedelta(seconds=1)}, "label_before_shown")]
    changed = [{**good, "item_id": str(n), **change} for n, (change, _) in enumerate(cases)]
    rows = fates(spark, EXPOSURES, [*changed, {**good, "item_id": "0"}])
    found = sorted((r.item_id, r[STATUS]) for r in rows.collect())
    assert found == sorted([(str(n), fate) for n, (_, fate) in enumerate(cases)] + [("0", "duplicate_exposure")])


def test_too_many_rejects_stop_the_run_with_share_limit_reasons_and_where_to_look() -> None:
    counts = accounted({"out": 80, "null_user_id": 15, "bad_price": 5})
    with pytest.raises(InputError, match=r"events, ds=2026-03-02: 20 of 100 rows \(20.0%\) were rejected, above "
                                         r"quality.max_reject_share = 5.0%: "
                                         r"null_user_id 15, bad_price 5; look at them with `moveline"):
        within_limit(counts, "events", "2026-03-02", Quality(), "conf/t.yaml")
    within_limit(counts, "events", "2026-03-02", Quality(max_reject_share=0.2), "conf/t.yaml")
    within_limit({"in": 0, "out": 0}, "events", "2026-03-02", Quality(max_reject_share=0), "conf/t.yaml")
