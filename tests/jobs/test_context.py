"""The context as of a cut against plain Python on the raw events: late rows, delays, ties, windows, and huge users."""

import random
from datetime import UTC, timedelta
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.recipe import Movelines
from feature_store.row_digest import row_digest
from jobs import context
from jobs.movelines import movelines
from jobs.visits import visits, walk
from tests.jobs.naive import Row, at, by_user, ds_of, event, frame, naive_tokens, naive_visits, random_events

DAYS = 3


def random_log(seed: int, users: int, delay: int) -> list[Row]:
    dice = random.Random(seed)
    rows = []
    for n in range(users):
        late = dice.choice([0, 0.2, 1.0])
        for day in range(DAYS):
            count = dice.choice([0, 1, 3, 10])
            rows += [{**e, "event_id": f"{day}-{e['event_id']}"}
                     for e in random_events(dice, f"u{n}", count, late=late, start=-86_400 * day, delay=delay, corrections=0.4)]
    return rows


def tables(spark: SparkSession, events: list[Row], settings: Movelines, patience: int) -> tuple[DataFrame, DataFrame]:
    days = {ds: [e for e in events if e["ds"] == ds] for ds in sorted({e["ds"] for e in events})}
    lines = [movelines(frame(spark, "events", rows), settings.max_tokens_a_day, settings.delay_s).frame for rows in days.values()]
    every = lines[0]
    for line in lines[1:]:
        every = every.unionByName(line)
    steps = walk(frame(spark, "events", events), frame(spark, "exposures", []), ["click"], ["cart"])
    return every, visits(steps, settings.visit_gap_s, patience).frame


def cut_frame(spark: SparkSession, events: list[Row], seed: int) -> DataFrame:
    dice = random.Random(seed)
    users = [*sorted(by_user(events)), "nobody"]
    after = [timedelta(seconds=dice.randrange(9_000)) for _ in range(400)]
    cuts = [(dice.choice(users), dice.choice([e["event_time"], e["available_time"], e["event_time"] + wait]), n)
            for n, (e, wait) in enumerate(zip(dice.choices(events, k=400), after, strict=True))]
    return spark.createDataFrame([*cuts, (*cuts[0][:2], 1_000)], "user_id string, cut_time timestamp, number int")


def visit_order(visit: Row) -> tuple:
    names = ("closed_time", "entry_time", "scene", "dwell_ms", "n_shown", "n_clicked", "n_carted", "categories")
    return tuple(visit[c] for c in names)


def expected(events: list[Row], user: str, cut: Any, settings: Movelines, patience: int) -> Row:
    own = by_user(events).get(user, [])
    tokens = naive_tokens(own, cut, settings.tokens, settings.days, settings.delay_s)
    wait, window = timedelta(seconds=settings.delay_s), timedelta(days=settings.days)
    stays = [v for v in naive_visits(own, [], settings.visit_gap_s, patience)
             if cut - window <= v["closed_time"] < cut - wait and v["available_time"] <= cut]
    stays = sorted(stays, key=visit_order)[max(len(stays) - settings.visits, 0):]
    return {
        "moveline_time": [t["event_time"] for t in tokens], "moveline_scene": [t["scene"] for t in tokens],
        "moveline_action": [t["action"] for t in tokens], "moveline_item": [t["item_id"] for t in tokens],
        "moveline_category": [t["category_id"] for t in tokens],
        "visit_time": [v["entry_time"] for v in stays], "visit_scene": [v["scene"] for v in stays],
        "visit_dwell_ms": [v["dwell_ms"] for v in stays], "visit_shown": [v["n_shown"] for v in stays],
        "visit_clicked": [v["n_clicked"] for v in stays], "visit_carted": [v["n_carted"] for v in stays],
        "visit_category": [v["categories"][0] if v["categories"] else None for v in stays]}


def compare(rows: DataFrame, events: list[Row], settings: Movelines, patience: int) -> None:
    for row in rows.collect():
        got = {c: row[c] for c in context.CONTEXT_COLUMNS}
        for name in ("moveline_time", "visit_time"):
            got[name] = [t.astimezone(UTC) for t in got[name]]
        assert got == expected(events, row.user_id, row.cut_time.astimezone(UTC), settings, patience), (row.user_id, row.cut_time)


@pytest.mark.parametrize(("tokens", "keep_visits", "days", "delay"), [(4, 3, 3, 0), (50, 20, 1, 300), (1, 0, 2, 0)])
def test_every_cut_knows_what_the_oracle_knows(spark: SparkSession, tokens: int, keep_visits: int, days: int, delay: int) -> None:
    settings = Movelines(tokens=tokens, visits=keep_visits, days=days, delay_s=delay, visit_gap_s=600)
    patience = max(delay, 60)
    events = random_log(tokens, 60, patience)
    lines, stays = tables(spark, events, settings, patience)
    rows = context.with_context(cut_frame(spark, events, 1), lines, stays, settings).frame
    assert rows.count() == 401
    compare(rows, events, settings, patience)


def test_content_does_not_depend_on_partitions_or_on_the_size_of_a_step(spark: SparkSession) -> None:
    settings = Movelines(tokens=5, visits=4, visit_gap_s=600)
    events = random_log(9, 40, 0)
    lines, stays = tables(spark, events, settings, 0)
    cuts = cut_frame(spark, events, 2)
    digests = []
    for parts in (1, 7):
        made = context.with_context(cuts.repartition(parts), lines.repartition(parts), stays.repartition(parts), settings, parts)
        rows = made.frame
        digests.append(rows.agg(*row_digest(rows, rows.columns)).first())
    assert digests[0] == digests[1]


def test_blocks_cover_every_row_once_and_stay_small(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr(context, "_MAX_LOOKED_AT", 10)
    weights = np.array([3, 3, 3, 3, 50, 1, 9, 1])
    assert list(context._blocks(weights)) == [(0, 3), (3, 4), (4, 5), (5, 7), (7, 8)]
    assert list(context._blocks(weights[:0])) == []


def test_a_user_with_thousands_of_late_tokens_and_cuts_is_exact(spark: SparkSession) -> None:
    settings = Movelines(tokens=50, visits=5)
    events = random_events(random.Random(4), "huge", 3_000, span=40_000, late=0.5, corrections=0.3)
    lines, stays = tables(spark, events, settings, 0)
    time = F.lit(at(0)) + F.make_dt_interval(secs=F.col("id") * 20)
    cuts = spark.range(2_000).select(F.lit("huge").alias("user_id"), time.alias("cut_time"))
    rows = context.with_context(cuts, lines, stays, settings).frame
    compare(rows.where(F.pmod(F.unix_micros("cut_time") / 1_000_000, F.lit(1_000)) == 0), events, settings, 0)
    assert rows.count() == 2_000


def test_a_cut_carries_its_own_columns_and_a_user_without_history_has_empty_lists(spark: SparkSession) -> None:
    shape = "user_id string, cut_time timestamp, mine array<int>, empty string"
    cuts = spark.createDataFrame([("nobody", at(5), [1, None], None)], shape)
    lines, stays = tables(spark, [event("u", 1)], Movelines(), 0)
    row = context.with_context(cuts, lines, stays, Movelines()).frame.first()
    assert (row.user_id, row.mine, row.empty) == ("nobody", [1, None], None) and row.moveline_time == row.visit_time == []


def test_the_token_of_the_same_microsecond_is_not_used(spark: SparkSession) -> None:
    events = [event("u", 10, 1), event("u", 10.000001, 2), event("u", 9, 3, available_time=at(10.5))]
    lines, stays = tables(spark, events, Movelines(), 0)
    cuts = spark.createDataFrame([("u", at(10)), ("u", at(10.000001)), ("u", at(10.5))], "user_id string, cut_time timestamp")
    rows = context.with_context(cuts, lines, stays, Movelines()).frame.orderBy("cut_time").collect()
    assert [len(r.moveline_time) for r in rows] == [0, 1, 3] and ds_of(at(9)) == "2026-01-05"


@pytest.mark.parametrize(("most", "stay"), [(2, ["a", "c"]), (1, ["a", "b", "c"])])
def test_rows_of_other_users_are_left_out_unless_the_users_are_too_many(
        spark: SparkSession, monkeypatch: pytest.MonkeyPatch, most: int, stay: list[str]) -> None:
    monkeypatch.setattr(context, "_MOST_SENT", most)
    lines, _ = tables(spark, [event(user, n) for user in "abc" for n in range(3)], Movelines(), 0)
    keys = lines.where("user_id != 'b'").select(context.user_key())
    assert sorted(row.user_id for row in context.of_users(lines, keys, 2).collect()) == stay
