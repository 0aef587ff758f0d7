"""Movelines against a plain-Python oracle: order, ties, late rows, the cap and users larger than a batch."""

import random
from collections.abc import Iterator
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from feature_store.errors import TableError
from feature_store.row_digest import row_digest
from feature_store.tables import Lake
from jobs import movelines as job
from jobs.day import conserved
from tests.jobs.naive import DAY, Row, by_user, event, frame, naive_order, random_events, ready, recipe

LISTS = ["event_time", "available_time", "scene", "action", "item_id", "category_id", "dwell_ms", "replaced_time"]


@pytest.fixture
def small_batches(spark: SparkSession) -> Iterator[None]:
    key = "spark.sql.execution.arrow.maxRecordsPerBatch"
    before = spark.conf.get(key)
    spark.conf.set(key, "7")
    yield
    spark.conf.set(key, before)


def expected(events: list[Row], cap: int, delay: int) -> dict[str, dict[str, Any]]:
    users = {}
    for user, rows in by_user(events).items():
        first = sorted(naive_order(rows), key=lambda r: ready(r["event_time"], r["available_time"], delay))[:cap]
        kept = naive_order(first)
        users[user] = {**{c: [r.get(c) for r in kept] for c in LISTS}, "n_tokens": len(kept), "n_over_cap": len(rows) - len(kept)}
    return users


def found(rows: DataFrame) -> dict[str, dict[str, Any]]:
    from datetime import UTC

    plain = {}
    for row in rows.collect():
        values = row.asDict()
        for name in ("event_time", "available_time", "replaced_time"):
            values[name] = [t and t.astimezone(UTC) for t in values[name]]
        plain[values.pop("user_id")] = values
    return plain


def random_log(seed: int, users: int = 300) -> list[Row]:
    dice = random.Random(seed)
    rows = [row for n in range(users) for row in random_events(dice, f"u{n}", dice.choice([1, 1, 2, 5, 12]), corrections=0.3)]
    rows += random_events(dice, "huge", 400)
    dice.shuffle(rows)
    return rows


@pytest.mark.parametrize(("cap", "delay"), [(10_000, 0), (6, 0), (6, 900)])
def test_every_user_has_the_tokens_of_the_oracle(spark: SparkSession, small_batches: None, cap: int, delay: int) -> None:
    events = random_log(1)
    assert found(job.movelines(frame(spark, "events", events), cap, delay).frame) == expected(events, cap, delay)


def test_pieces_smaller_than_a_user_give_the_same(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from jobs.pieces import pieces

    monkeypatch.setattr(job, "pieces", partial(pieces, rows=16))
    events = random_log(2, users=40)
    gather = job._gather(5, 0)
    ordered = sorted(events, key=lambda r: (r["user_id"], r["event_time"], r["seq"], r["event_id"], r["available_time"]))
    table = frame(spark, "events", ordered).coalesce(1).select("user_id", *LISTS).toArrow()
    rows = [r for batch in gather(iter(table.to_batches(max_chunksize=7))) for r in batch.to_pylist()]
    got = {r.pop("user_id"): r for r in rows}
    assert got == expected(events, 5, 0)


def test_the_cap_keeps_the_same_tokens_whatever_happens_later(spark: SparkSession) -> None:
    morning = [event("u", n, n) for n in range(5)]
    evening = [event("u", 50_000 + n, 100 + n) for n in range(50)]
    rows = job.movelines(frame(spark, "events", morning + evening), 5).frame.first()
    assert [t.timestamp() for t in rows.event_time] == [e["event_time"].timestamp() for e in morning] and rows.n_over_cap == 50


def test_content_does_not_depend_on_partitions(spark: SparkSession) -> None:
    events = frame(spark, "events", random_log(3, users=60))
    digests = []
    for parts in (1, 7):
        rows = job.movelines(events.repartition(parts), 8).frame
        digests.append(rows.agg(*row_digest(rows, rows.columns)).first())
    assert digests[0] == digests[1]


def test_a_day_is_built_skipped_and_unchanged(spark: SparkSession, lake: Lake) -> None:
    plan = recipe(movelines={"max_tokens_a_day": 3})
    events = [event(u, n, n) for u in ("a", "b") for n in range(5)]
    table = lake.table("events")
    table.begin(DAY).commit(frame(spark, "events", events), counts={}, inputs={"n": "1"})
    first = job.build(spark, plan, lake, DAY)
    assert (first.status, first.rows, first.counts) == ("built", 2, {"in": 10, "out": 6, "over_cap": 4})
    assert job.build(spark, plan, lake, DAY).status == "skipped"
    other = [{**e, "query": "a column movelines do not use"} for e in events]
    table.begin(DAY).commit(frame(spark, "events", other), counts={}, inputs={"n": "2"})
    assert job.build(spark, plan, lake, DAY).status == "unchanged"


def test_a_day_without_events_is_an_empty_day(spark: SparkSession, lake: Lake) -> None:
    result = job.build(spark, recipe(), lake, DAY)
    assert (result.status, result.rows, result.counts) == ("built", 0, {"in": 0, "out": 0, "over_cap": 0})


def test_lost_rows_are_an_error_that_names_the_table() -> None:
    with pytest.raises(TableError, match="table pages, ds=2026-01-05: 3 rows came in but 2 are accounted for"):
        conserved({"in": 3, "out": 1, "reject.x": 1}, "pages", DAY)
