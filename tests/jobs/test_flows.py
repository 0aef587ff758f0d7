"""Flows against plain Python on random walks, and that a context never holds what comes after its cut."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, Row, SparkSession

from feature_store.contracts import MOVELINES, VISITS
from feature_store.recipe import Flows, Movelines, Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from feature_store.worker_rows import WorkerRows
from jobs import context
from jobs.flows import build, flows

DAY = "2026-01-05"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
Token = tuple[int, str, str, str | None]
"""Seconds after noon, scene, action, item."""


def movelines(spark: SparkSession, walks: dict[str, list[Token]], ds: str = DAY) -> DataFrame:
    start = NOON - timedelta(days=(datetime(2026, 1, 5) - datetime.fromisoformat(ds)).days)
    rows = []
    for user, tokens in walks.items():
        times = [start + timedelta(seconds=t[0]) for t in tokens]
        columns = [[t[n] for t in tokens] for n in (1, 2, 3)]
        category = [None if t[3] is None else f"c{t[3]}" for t in tokens]
        rows.append((user, times, times, *columns, category, *[[None] * len(tokens)] * 2, len(tokens), 0, ds))
    return spark.createDataFrame(rows, spark_schema(MOVELINES.schema))


def random_walks(seed: int, users: int, longest: int) -> dict[str, list[Token]]:
    draw = random.Random(seed)
    walks: dict[str, list[Token]] = {}
    for n in range(users):
        times = sorted(draw.randint(0, longest) for _ in range(draw.randint(0, longest)))
        walks[f"u{n}"] = [(t, draw.choice("xy"), draw.choice(["click", "view"]), draw.choice([None, "a", "b", "c"])) for t in times]
    return walks


def expected(walks: dict[str, list[Token]], settings: Flows) -> dict[tuple[str, int], list[Token]]:
    """Every possible cut with its future, one token at a time."""
    found = {}
    for user, tokens in walks.items():
        interests: list[Token] = []
        last = None
        for token in tokens:
            if token[3] is None or (settings.actions is not None and token[2] not in settings.actions):
                continue
            if token[3] != last:
                interests.append(token)
            last = token[3]
        for place, token in enumerate(interests):
            found.setdefault((user, token[0]), interests[place:place + settings.future])
    return found


def as_dict(frame: DataFrame) -> dict[tuple[str, int], list[Token]]:
    def seconds(time: datetime) -> int:
        return int((time.astimezone(UTC) - NOON).total_seconds())

    def future(row: Row) -> list[Token]:
        times = [seconds(t) for t in row.future_time]
        return list(zip(times, row.future_scene, row.future_action, row.future_item, strict=True))

    rows = frame.collect()
    found = {(r.user_id, seconds(r.cut_time)): future(r) for r in rows}
    assert len(found) == len(rows)
    assert all(r.future_category == [f"c{i}" for i in r.future_item] for r in rows)
    return found


def made(frame: DataFrame, settings: Flows) -> WorkerRows:
    """The flows of a day of users who made no visit."""
    no_visits = frame.sparkSession.createDataFrame([], spark_schema(VISITS.schema))
    return flows(frame, no_visits, DAY, settings, Movelines())


def beside(rows: WorkerRows) -> dict[str, int]:
    """What is counted beside the rows."""
    return rows.counts_of(rows.with_counts)


def as_workers_get(rows: WorkerRows) -> pa.Table:
    """What the workers get, all partitions in a row (`DataFrame.toArrow` refuses a null struct of fields that are not null)."""
    def packed(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        table = pa.Table.from_batches(batches)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        yield pa.RecordBatch.from_pydict({"bytes": [sink.getvalue().to_pybytes()]})

    [row] = rows.source.coalesce(1).mapInArrow(packed, "bytes binary").collect()
    return pa.ipc.open_stream(row.bytes).read_all()


@pytest.mark.parametrize("actions", [None, ["click"]])
def test_all_cuts_equal_a_walk_token_by_token(spark: SparkSession, actions: list[str] | None) -> None:
    settings = Flows(future=3, cuts_a_day=1_000, actions=actions)
    walks = random_walks(1, 50, 25)
    frame = movelines(spark, walks)
    want = expected(walks, settings)
    assert as_dict(made(frame, settings).frame) == want and len(want) > 100
    counts = beside(made(frame, settings))
    assert counts["in"] == len(want) + counts["merged"] + counts["same_time"] and counts["not_chosen"] == 0
    assert min(counts["merged"], counts["same_time"]) > 0


def test_chosen_cuts_are_a_capped_part_that_partitions_do_not_change(spark: SparkSession) -> None:
    walks = random_walks(2, 40, 30)
    frame, every = movelines(spark, walks), expected(walks, Flows(future=4))
    some = as_dict(made(frame, Flows(future=4, cuts_a_day=2)).frame)
    assert some == as_dict(made(frame.repartition(5), Flows(future=4, cuts_a_day=2)).frame)
    assert all(every[key] == future for key, future in some.items())
    for user in walks:
        assert sum(u == user for u, _ in some) == min(2, sum(u == user for u, _ in every))
    counts = beside(made(frame, Flows(future=4, cuts_a_day=2)))
    assert counts["in"] == len(some) + counts["merged"] + counts["same_time"] + counts["not_chosen"]


@pytest.mark.parametrize(("rows", "looked_at"), [(1, 1), (7, 40), (100, 1_000)])
def test_rows_and_counts_do_not_depend_on_the_size_of_a_step(
        spark: SparkSession, monkeypatch: pytest.MonkeyPatch, rows: int, looked_at: int) -> None:
    flowing = made(movelines(spark, random_walks(3, 40, 20)), Flows(future=6, cuts_a_day=3))
    source = as_workers_get(flowing).to_batches(max_chunksize=5)

    def worked() -> tuple[int, pa.Table, dict[str, int]]:
        batches = list(flowing.work(iter(source)))
        counted = [batch for batch in batches if batch.schema.names == list(flowing.beside)]
        sums = {name: sum(batch[name][0].as_py() for batch in counted) for name in flowing.beside}
        return len(batches), pa.Table.from_batches([batch for batch in batches if batch.schema == flowing.schema]), sums

    few, *whole = worked()
    monkeypatch.setattr(context, "_CHUNK", rows)
    monkeypatch.setattr(context, "_MAX_LOOKED_AT", looked_at)
    many, *in_steps = worked()
    assert (few, in_steps) == (2, whole) and many > few and whole[0].num_rows > 60


def test_a_built_row_knows_nothing_from_its_cut_on(spark: SparkSession, lake: Lake) -> None:
    settings = {"flows": {"future": 3, "cuts_a_day": 100}, "movelines": {"days": 2, "tokens": 4}}
    recipe = Recipe.model_validate({"name": "t", **settings, "source": {
        "inputs": {"raw": {"path": "x"}}, "events": [{"from": "raw", "columns": {}}]}})
    # A user without tokens has no row in a real table of movelines.
    yesterday, today = ({user: w for user, w in random_walks(*args).items() if w} for args in ((3, 12, 10), (4, 12, 20)))
    for ds, walks in (("2026-01-04", yesterday), (DAY, today)):
        lake.table("movelines").begin(ds).commit(movelines(spark, walks, ds), counts={}, inputs={"x": ds})
    result = build(spark, recipe, lake, DAY)
    rows = lake.read(spark, "flows", [DAY]).collect()
    assert result.status == "built" and result.rows == len(rows) == len(expected(today, recipe.flows)) > 50
    assert result.counts["in"] == sum(n for name, n in result.counts.items() if name != "in")
    for row in rows:
        cut = (row.cut_time.astimezone(UTC) - NOON).total_seconds()
        before = [("y", t[3]) for t in yesterday.get(row.user_id, [])] + [("t", t[3]) for t in today[row.user_id] if t[0] < cut]
        assert row.moveline_item == [i for _, i in before[-4:]]
        assert all(t < row.cut_time for t in row.moveline_time) and all(t >= row.cut_time for t in row.future_time)
    assert build(spark, recipe, lake, DAY).status == "skipped"


def test_a_day_without_interests_has_no_flows(spark: SparkSession) -> None:
    for walks in ({}, {"u": [(1, "x", "view", None)], "v": []}):
        none = made(movelines(spark, walks), Flows())
        assert none.frame.count() == 0 and sum(beside(none).values()) == 0
