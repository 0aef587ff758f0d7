"""Visits against plain Python: pauses, ties, impressions, late steps, and visits that cross midnight."""

import random
from datetime import UTC, timedelta

import pytest
from pyspark.sql import DataFrame, SparkSession

from feature_store.contracts import VISITS
from feature_store.row_digest import row_digest
from feature_store.tables import Lake
from jobs import visits as job
from tests.jobs.naive import ZERO, Row, at, by_user, ds_of, event, exposure, frame, naive_visits, random_events, recipe

DAYS = ["2026-01-04", "2026-01-05", "2026-01-06"]


def random_log(seed: int, users: int, start: int = 0, span: int = 7_200) -> tuple[list[Row], list[Row]]:
    dice = random.Random(seed)
    events, shown = [], []
    for n in range(users):
        events += random_events(dice, f"u{n}", dice.choice([0, 1, 4, 12]), span=span, start=start, delay=30, corrections=0.3)
        for page in range(dice.choice([0, 1, 3])):
            time = start + dice.randrange(0, span, 300)
            late = at(time + dice.choice([0, 0, 30, 31]))
            shown += [exposure(f"p{n}-{page}", f"u{n}", time, f"i{k}", k, viewed=dice.random() < 0.7, scene=dice.choice("ab"),
                               available_time=late) for k in range(3)]
    return events, shown


def expected(events: list[Row], shown: list[Row], gap: int, patience: int) -> list[Row]:
    users = {**by_user(events), **{u: [] for u in by_user(shown) if u not in by_user(events)}}
    return [{"user_id": u, **v} for u, own in users.items() for v in naive_visits(own, by_user(shown).get(u, []), gap, patience)]


def found(rows: DataFrame) -> list[Row]:
    plain = [r.asDict() for r in rows.collect()]
    return [{k: v.astimezone(UTC) if k.endswith("_time") else v for k, v in r.items()} for r in plain]


def ordered(rows: list[Row]) -> list[tuple]:
    return sorted(tuple(sorted((k, str(v)) for k, v in r.items())) for r in rows)


def steps_of(spark: SparkSession, events: list[Row], shown: list[Row], parts: int = 2) -> DataFrame:
    return job.walk(frame(spark, "events", events), frame(spark, "exposures", shown), ["click"], ["cart"]).repartition(parts)


def test_every_visit_is_the_one_of_the_oracle(spark: SparkSession) -> None:
    events, shown = random_log(1, 200)
    events += random_events(random.Random(2), "huge", 1_500, delay=30)
    rows = job.visits(steps_of(spark, events, shown), 400, 30).frame
    assert ordered(found(rows)) == ordered(expected(events, shown, 400, 30))


def test_three_steps_of_one_instant_are_visits_with_keys_of_their_own(spark: SparkSession) -> None:
    steps = steps_of(spark, [event("u", 5, n, event_id=f"e{n}", scene=s) for n, s in enumerate("abab")], [])
    rows = found(job.visits(steps, 400, 30).frame)
    keys = [tuple(str(r[c]) for c in VISITS.key) for r in rows]
    assert len(rows) == 4 and len(set(keys)) == 4
    assert [r["scene"] for r in sorted(rows, key=lambda r: r["seq"])] == list("abab")


def test_content_does_not_depend_on_partitions(spark: SparkSession) -> None:
    events, shown = random_log(3, 60)
    digests = []
    for parts in (1, 7):
        rows = job.visits(steps_of(spark, events, shown, parts), 400, 30).frame
        digests.append(rows.agg(*row_digest(rows, rows.columns)).first())
    assert digests[0] == digests[1]


def test_pieces_smaller_than_a_visit_give_the_same(spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    from functools import partial

    from jobs.pieces import pieces

    monkeypatch.setattr(job, "pieces", partial(pieces, rows=3))
    events, _ = random_log(4, 30)
    events = [e for e in events if e["available_time"] <= e["event_time"] + timedelta(seconds=30)
              and not (e["replaced_time"] and e["replaced_time"] <= e["event_time"] + timedelta(seconds=30))]
    used = ["user_id", "at", "is_page", "scene", "n_shown", "n_clicked", "n_carted", "category_id"]
    table = steps_of(spark, events, [], 1).sortWithinPartitions("user_id", "at", "seq", "id").select(*used).toArrow()
    rows = [r for b in job._stay(400_000_000, 30_000_000)(iter(table.to_batches(max_chunksize=2))) for r in b.to_pylist()]
    assert ordered(rows) == ordered(expected(events, [], 400, 30))


def test_a_visit_that_crosses_midnight_appears_once_on_the_day_it_closed(spark: SparkSession, lake: Lake) -> None:
    plan = recipe(movelines={"visit_gap_s": 600, "visit_wait_s": 30})
    events, shown = random_log(5, 40, start=-3_600)
    events += [event("night", n, n, event_id=f"n{n}", scene="a") for n in range(-900, 900, 300)]
    for name, rows in (("events", events), ("exposures", shown)):
        for ds in {r["ds"] for r in rows}:
            lake.table(name).begin(ds).commit(frame(spark, name, [r for r in rows if r["ds"] == ds]), counts={}, inputs={"n": "1"})
    results = [job.build(spark, plan, lake, ds) for ds in DAYS]
    assert [r.status for r in results] == ["built"] * 3
    assert all(sum(v for k, v in r.counts.items() if k != "in") == r.counts["in"] for r in results)
    table = [{k: v for k, v in r.items() if k != "ds"} for r in found(lake.read(spark, "visits"))]
    assert ordered(table) == ordered(expected(events, shown, 600, 30))
    assert all(r["ds"] == ds_of(r["closed_time"]) for r in found(lake.read(spark, "visits")))
    night = [r for r in table if r["user_id"] == "night"]
    assert [(r["entry_time"], r["n_tokens"]) for r in night] == [(ZERO - timedelta(seconds=900), 6)]
    assert job.build(spark, plan, lake, DAYS[1]).status == "skipped"


def test_tokens_of_visits_of_other_days_are_counted_and_not_written(spark: SparkSession) -> None:
    events, shown = random_log(6, 80, start=-7_200, span=14_400)
    events += random_events(random.Random(7), "late", 60, span=3_600, start=84_000, delay=0)
    every = expected(events, shown, 600, 30)
    made = job.closed_on(job.visits(steps_of(spark, events, shown), 600, 30), DAYS[1])
    of = {days: [v for v in every if ds_of(v["closed_time"]) in days] for days in ((DAYS[0],), (DAYS[1],), (DAYS[2],))}
    assert ordered(found(made.frame)) == ordered(of[(DAYS[1],)])
    before, after = (sum(v["n_tokens"] for v in of[(day,)]) for day in (DAYS[0], DAYS[2]))
    assert made.counts_of(made.with_counts) == {"closed_before": before, "still_open": after} and before > 50 and after > 5


def test_a_day_without_rows_has_no_visits(spark: SparkSession, lake: Lake) -> None:
    result = job.build(spark, recipe(), lake, DAYS[0])
    assert (result.rows, result.counts["in"]) == (0, 0)


def test_a_correction_within_the_wait_counts_and_a_later_one_changes_no_visit(spark: SparkSession) -> None:
    def visit(replaced: float) -> Row:
        old = event("u", 0, scene="a", category_id="old", replaced_time=at(replaced))
        new = event("u", 0, scene="a", category_id="new", available_time=at(replaced))
        return found(job.visits(steps_of(spark, [old, new], []), 600, 60).frame)[0]

    assert (visit(60)["categories"], visit(61)["categories"]) == (["new"], ["old"])


def test_a_late_step_is_counted_and_changes_no_visit(spark: SparkSession) -> None:
    events = [event("u", 0, 0, scene="a"), event("u", 100, 1, scene="a")]
    late = event("u", 50, 2, scene="b", available_time=at(5_000))
    both = [found(job.visits(steps_of(spark, rows, []), 600, 60).frame) for rows in (events, [*events, late])]
    assert both[0] == both[1] and both[0][0]["available_time"] == at(100 + 600 + 60)
