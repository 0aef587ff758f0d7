"""Movelines: a user's tokens of one day in one row, in order.

A user with more than `max_tokens_a_day` tokens keeps the ones that could be known first; the rest is counted. Which tokens are
kept must not depend on what happens later, or a page of the morning would change with the events of the evening.
"""

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import MOVELINES, Columns
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from feature_store.worker_rows import Work, WorkerRows
from jobs.day import DayResult, Made, build_day, inputs_of
from jobs.pieces import Piece, lists, micros, offsets_of, pieces, plain, user_starts

_CODE = ("jobs.movelines", "jobs.pieces")
_TOKEN = ["event_time", "available_time", "scene", "action", "item_id", "category_id", "dwell_ms", "replaced_time"]
_SCHEMA = pa.schema([f for f in MOVELINES.schema if f.name != Columns.DS])


def movelines(events: DataFrame, max_tokens: int, delay_s: int = 0) -> WorkerRows:
    """One row a user: tokens in the order (event_time, seq, event_id, available_time), as lists; each version of an event is one.

    Parameters
    ----------
    events : rows of the `events` contract, of one day. max_tokens : longest list; see the module for which tokens stay.
    delay_s : how long before a cut a token must lie to be used (`movelines.delay_s`).

    Returns
    -------
    The columns of the `movelines` contract without `ds`, partitioned and sorted by user.
    """
    order = (Columns.USER, Columns.EVENT_TIME, "seq", "event_id", Columns.AVAILABLE_TIME)
    ordered = (events.select(Columns.USER, *_TOKEN, "seq", "event_id").repartition(Columns.USER).sortWithinPartitions(*order)
               .select(Columns.USER, *_TOKEN))
    return WorkerRows(ordered, _gather(max_tokens, delay_s), _SCHEMA)


def _gather(cap: int, delay_s: int) -> Work:
    def gather(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for piece in pieces(batches, user_starts, trim=lambda rest: rest.take(_first_ready(rest, cap, delay_s))):
            yield _rows(piece, cap, delay_s)

    return gather


def _first_ready(tokens: pa.Table, cap: int, delay_s: int) -> np.ndarray:
    """Positions, ascending, of the `cap` tokens of one user that could be known first."""
    if tokens.num_rows <= cap:
        return np.arange(tokens.num_rows)
    return np.sort(np.argsort(_ready(tokens, delay_s), kind="stable")[:cap])


def _ready(tokens: pa.Table, delay_s: int) -> np.ndarray:
    after = micros(plain(tokens["event_time"])) + delay_s * 1_000_000 + 1
    return np.maximum(after, micros(plain(tokens["available_time"])))


def _rows(piece: Piece, cap: int, delay_s: int) -> pa.RecordBatch:
    table = piece.table.slice(0, piece.done)
    starts = user_starts(table)
    counts = np.diff(np.append(starts, table.num_rows))
    seen = counts.copy()
    seen[0] += piece.dropped
    users = plain(table["user_id"]).take(pa.array(starts))
    if (counts > cap).any():
        table = table.take(_kept(table, counts, cap, delay_s))
        counts = np.minimum(counts, cap)
    offsets = offsets_of(counts)
    columns = [lists(offsets, plain(table[name])) for name in _TOKEN]
    over = pa.array((seen - counts).astype(np.int32))
    return pa.RecordBatch.from_arrays([users, *columns, pa.array(counts.astype(np.int32)), over], schema=_SCHEMA)


def _kept(table: pa.Table, counts: np.ndarray, cap: int, delay_s: int) -> np.ndarray:
    """Positions, ascending, of the tokens that stay when each user keeps the `cap` that could be known first."""
    user = np.repeat(np.arange(len(counts)), counts)
    order = np.lexsort((_ready(table, delay_s), user))
    place = np.arange(len(order)) - np.repeat(offsets_of(counts)[:-1], counts)
    return np.sort(order[place < cap])


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    """Build a day of `movelines` from the same day of `events`."""
    settings = recipe.movelines
    config = {"max_tokens_a_day": settings.max_tokens_a_day, "delay_s": settings.delay_s}

    def make(_: object) -> Made:
        events = lake.read(spark, "events", [ds])
        rows = movelines(events, settings.max_tokens_a_day, settings.delay_s)

        def counts(written: DataFrame) -> dict[str, int]:
            sums = written.agg(F.sum("n_tokens").alias("out"), F.sum("n_over_cap").alias("over")).first()
            return {"in": events.count(), "out": int(sums["out"] or 0), "over_cap": int(sums["over"] or 0)}

        return Made(rows, counts)

    return build_day(lake.table("movelines"), ds, lambda: inputs_of(lake, {"events": [ds]}, _CODE, config), make)
