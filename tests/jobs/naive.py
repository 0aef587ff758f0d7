"""Plain-Python oracles and small random logs for the tests of the tables of a day. Times are seconds of 2026-01-05."""

import random
from collections import Counter, defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from feature_store.contracts import CONTRACTS
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake

Row = dict[str, Any]
DAY = "2026-01-05"
ZERO = datetime(2026, 1, 5, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return ZERO + timedelta(seconds=seconds)


def ds_of(time: datetime) -> str:
    return time.strftime("%Y-%m-%d")


def frame(spark: SparkSession, table: str, rows: Iterable[Row]) -> DataFrame:
    """Rows as a DataFrame of a contract; what a row does not name is null."""
    schema, rows = CONTRACTS[table].schema, list(rows)
    if not rows:
        return spark.createDataFrame([], spark_schema(schema))
    # By way of Arrow: rows of Python would be pickled, checked value by value and take a Python worker of their own.
    return spark.createDataFrame(pa.Table.from_pylist(rows, schema), spark_schema(schema))


def fill(spark: SparkSession, lake: Lake, tables: dict[str, list[Row]]) -> None:
    """The days of rows that have a `ds`, as the new content of tables of a lake."""
    for name, rows in tables.items():
        for ds in sorted({r["ds"] for r in rows}):
            day = frame(spark, name, [r for r in rows if r["ds"] == ds]).repartition(2)
            lake.table(name).begin(ds).commit(day, counts={}, inputs={"n": str(len(rows))})


def event(user: str, time: float, number: int = 0, **more: Any) -> Row:
    row = {"event_id": f"e{number:06d}", "user_id": user, "event_time": at(time), "seq": number, "available_time": at(time),
           "scene": "home", "action": "view", "op": "upsert", "replaced_time": None, "ds": ds_of(at(time))}
    return {**row, **more}


def exposure(page: str, user: str, time: float, item: str, position: int, **more: Any) -> Row:
    row = {"page_id": page, "user_id": user, "shown_time": at(time), "label_time": at(time), "available_time": at(time),
           "scene": "home", "scenario": "feed", "item_id": item, "position": position, "viewed": True, "clicked": False,
           "ds": ds_of(at(time))}
    return {**row, **more}


def random_events(dice: random.Random, user: str, count: int, span: int = 7_200, late: float = 0.2, start: int = 0,
                  delay: int = 0, corrections: float = 0.0) -> list[Row]:
    """Events with many equal times, pauses, late rows and nulls; this share of them corrected or deleted some time later."""
    rows = []
    for n in range(count):
        time = start + dice.choice([dice.randrange(span), dice.randrange(0, span, 600)])
        wait = dice.choice([dice.randrange(span), delay + 1]) if dice.random() < late else dice.choice([0, delay])
        rows.append(event(user, time, dice.randrange(3), event_id=f"{user}-{n}", available_time=at(time + wait),
                          scene=dice.choice("abc"), action=dice.choice(["view", "click", "cart"]),
                          item_id=dice.choice([None, "i1", "i2", "i3"]), category_id=dice.choice([None, "c1", "c2", "c3", "c4"]),
                          dwell_ms=dice.choice([None, 5])))
    return rows + [new for row in rows if dice.random() < corrections for new in corrected(dice, row)]


def corrected(dice: random.Random, row: Row) -> list[Row]:
    """Versions that follow a row, whose replaced_time is set; none when it was deleted."""
    when = row["available_time"] + timedelta(seconds=dice.choice([1, 25, 30, 31, 60, 61, 300, dice.randrange(1, 7_200)]))
    row["replaced_time"] = when
    if dice.random() < 0.3:
        return []
    new = {**row, "available_time": when, "replaced_time": None, "scene": dice.choice("abc"),
           "item_id": dice.choice([None, "i8", "i9"])}
    return [new, *(corrected(dice, new) if dice.random() < 0.3 else [])]


def by_user(rows: Iterable[Row]) -> dict[str, list[Row]]:
    users: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        users[row["user_id"]].append(row)
    return users


def naive_order(rows: Iterable[Row]) -> list[Row]:
    return sorted(rows, key=lambda r: (r["event_time"], r["seq"], r["event_id"], r["available_time"]))


def ready(time: datetime, available: datetime, delay: int) -> datetime:
    return max(time + timedelta(seconds=delay, microseconds=1), available)


def naive_tokens(rows: list[Row], cut: datetime, most: int, days: int, delay: int) -> list[Row]:
    """The moveline of one user as of a cut, from the raw events."""
    wait, window = timedelta(seconds=delay), timedelta(days=days)
    known = [r for r in naive_order(rows) if cut - window <= r["event_time"] < cut - wait and r["available_time"] <= cut
             and not (r["replaced_time"] and r["replaced_time"] <= cut)]
    return known[max(len(known) - most, 0):]


def naive_visits(events: list[Row], shown: list[Row], gap: int, patience: int) -> list[Row]:
    """All visits of one user."""
    steps = [(e["event_time"], 0, e["seq"], e["event_id"], e["scene"], 0, e, e["available_time"]) for e in events
             if not (e["replaced_time"] and e["replaced_time"] <= e["event_time"] + timedelta(seconds=patience))]
    pages: dict[tuple, list[Row]] = defaultdict(list)
    for x in shown:
        pages[(x["shown_time"], 1, 0, x["page_id"], x["scene"])].append(x)
    steps += [(*k, len(v), None, max(x["available_time"] for x in v)) for k, v in pages.items()]
    steps = sorted((s for s in steps if s[7] <= s[0] + timedelta(seconds=patience)), key=lambda s: s[:5])
    runs: list[list] = []
    for step in steps:
        if runs and runs[-1][-1][4] == step[4] and step[0] - runs[-1][-1][0] <= timedelta(seconds=gap):
            runs[-1].append(step)
        else:
            runs.append([step])
    entries = [run[0][0] for run in runs]
    return [{**_naive_visit(run, following[0][0] if following else None, gap, patience), "seq": entries[:n].count(run[0][0])}
            for n, (run, following) in enumerate(zip(runs, [*runs[1:], None], strict=False))]


def _naive_visit(run: list, following: datetime | None, gap: int, patience: int) -> Row:
    first, last, pause = run[0][0], run[-1][0], timedelta(seconds=gap)
    closes = following is not None and following - last <= pause
    tokens = [s[6] for s in run if s[6]]
    counts = Counter(t["category_id"] for t in tokens if t.get("category_id"))
    end = following if closes else last
    closed = following if closes else last + pause
    return {
        "scene": run[0][4], "entry_time": first, "closed_time": closed, "available_time": closed + timedelta(seconds=patience),
        "dwell_ms": (end - first) // timedelta(milliseconds=1), "n_shown": sum(s[5] for s in run),
        "n_clicked": sum(t["action"] == "click" for t in tokens), "n_carted": sum(t["action"] == "cart" for t in tokens),
        "n_tokens": len(tokens), "categories": sorted(counts, key=lambda c: (-counts[c], c))[:3]}


def recipe(**sections: Any) -> Recipe:
    """A recipe whose source is never read."""
    source = {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}], **sections.pop("source", {})}
    return Recipe.model_validate({"name": "naive", "source": source, **sections})
