"""Visits: a user's walk of events and page impressions as stays in scenes, each on the day it closed.

A visit is a maximal run of steps in one scene without a pause of more than `visit_gap_s`. It closes at the next step when that
comes within the pause, else `visit_gap_s` after its last step. A day needs the walk of the day and of the day before: a visit
that is older still is cut at the start of the day before.

A step that became available more than `movelines.visit_wait_s` after it happened (or `movelines.delay_s` or
`source.available_delay_s`, when one of those is longer) is *late* and no part of the walk: otherwise its arrival would change
visits that were already used; for the same reason a correction or delete that comes later than that changes nothing in it. So a
visit is known, for good, at closed_time plus that wait, which is its available_time.
"""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import VISITS, Columns
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from feature_store.worker_rows import Work, WorkerRows
from jobs.day import DayResult, Made, build_day, day_start, days_until, inputs_of
from jobs.pieces import changes, lists, micros, pieces, plain

_CODE = ("jobs.pieces", "jobs.visits")
_TOP = 3
_SCHEMA = pa.schema([f for f in VISITS.schema if f.name != Columns.DS])
_SECOND = 1_000_000


def walk(events: DataFrame, exposures: DataFrame, clicked_actions: list[str], carted_actions: list[str]) -> DataFrame:
    """The steps of all users: one for an event, and one for a page shown, which is an impression in the page's scene.

    Returns
    -------
    user_id, at (time), is_page (0 or 1), seq, id, scene (ties in this order), available_time, replaced_time, n_shown (items),
    n_clicked and n_carted (0 or 1), category_id.
    """
    tokens = events.select(
        "user_id", F.col("event_time").alias("at"), F.lit(0).alias("is_page"), "seq", F.col("event_id").alias("id"),
        "available_time", "replaced_time", "scene", F.lit(0).alias("n_shown"), _one_of(clicked_actions).alias("n_clicked"),
        _one_of(carted_actions).alias("n_carted"), "category_id")
    # Shown, not viewed: what was viewed is a label, and may be known later than the page.
    shown = exposures.groupBy("user_id", F.col("shown_time").alias("at"), "page_id", "scene").agg(
        F.max("available_time").alias("available_time"), F.count(F.lit(1)).cast("int").alias("n_shown"))
    impressions = shown.select(
        "user_id", "at", F.lit(1).alias("is_page"), F.lit(0).cast("long").alias("seq"), F.col("page_id").alias("id"),
        "available_time", F.lit(None).cast("timestamp").alias("replaced_time"), "scene", "n_shown", F.lit(0).alias("n_clicked"),
        F.lit(0).alias("n_carted"), F.lit(None).cast("string").alias("category_id"))
    return tokens.unionByName(impressions)


def _one_of(actions: list[str]) -> Column:
    return F.col("action").isin(actions).cast("int")


def is_late(patience_s: int) -> Column:
    """Whether a step of the walk became available more than `patience_s` seconds after it happened."""
    return F.unix_micros("available_time") > F.unix_micros("at") + patience_s * _SECOND


def is_replaced(patience_s: int) -> Column:
    """Whether a step that is not late was corrected or deleted before `patience_s` seconds had passed; later is too late."""
    soon = F.unix_micros("replaced_time") <= F.unix_micros("at") + patience_s * _SECOND
    return ~is_late(patience_s) & F.coalesce(soon, F.lit(False))


def visits(steps: DataFrame, gap_s: int, patience_s: int) -> WorkerRows:
    """The visits of all users, from the steps of `walk` that are neither late nor replaced.

    Parameters
    ----------
    steps : see `walk`. gap_s : a pause longer than this many seconds closes a visit. patience_s : see `is_late`.

    Returns
    -------
    The columns of the `visits` contract without `ds`, by user and in the order of the contract; `seq` numbers the visits of a user
    that begin in one instant.
    """
    # The scene comes last: a page whose rows name two scenes is two steps that nothing else tells apart.
    order = ["user_id", "at", "is_page", "seq", "id", "scene"]
    used = ["user_id", "at", "is_page", "scene", "n_shown", "n_clicked", "n_carted", "category_id"]
    known = steps.where(~is_late(patience_s) & ~is_replaced(patience_s))
    ordered = known.repartition("user_id").sortWithinPartitions(*order).select(*used)
    return WorkerRows(ordered, _stay(gap_s * _SECOND, patience_s * _SECOND), _SCHEMA)


def closed_on(every: WorkerRows, ds: str) -> WorkerRows:
    """Those of `visits` that closed on a day; the tokens of the others are counted beside, as `closed_before` and `still_open`."""
    start = int(day_start(ds).timestamp()) * _SECOND
    work = partial(_within, work=every.work, start=start, end=start + 86_400 * _SECOND)
    return WorkerRows(every.source, work, every.schema, ("closed_before", "still_open"))


def _within(batches: Iterator[pa.RecordBatch], work: Work, start: int, end: int) -> Iterator[pa.RecordBatch]:
    before = still_open = 0
    for rows in work(batches):
        closed, tokens = micros(rows["closed_time"]), rows["n_tokens"].to_numpy()
        before += int(tokens[closed < start].sum())
        still_open += int(tokens[closed >= end].sum())
        yield rows.filter(pa.array((closed >= start) & (closed < end)))
    yield pa.RecordBatch.from_pydict({"closed_before": [before], "still_open": [still_open]})


def _stay(gap: int, patience: int) -> Work:
    def stay(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        # A piece ends where a visit ends, not where a user ends: one very active user is never gathered whole.
        for piece in pieces(batches, lambda table: _ends_of_instants(table, gap)):
            yield _visits_of(piece.table, piece.done, gap, patience)

    return stay


def _starts(table: pa.Table, gap: int) -> np.ndarray:
    at = micros(plain(table["at"]))
    starts = [changes(table["user_id"]), changes(table["scene"]), np.flatnonzero(np.diff(at) > gap) + 1]
    return np.unique(np.concatenate(starts))


def _ends_of_instants(table: pa.Table, gap: int) -> np.ndarray:
    """The starts of visits that do not begin in the instant of the row before: visits of one instant are numbered together."""
    starts, at = _starts(table, gap), micros(plain(table["at"]))
    new_user = np.isin(starts, changes(table["user_id"]))
    return starts[new_user | (at[starts] != at[starts - 1])]


def _numbers(user: np.ndarray, entry: np.ndarray) -> np.ndarray:
    """[n] int32, 0, 1, 2, ... within each run of visits of one user and entry time."""
    first = np.append(True, (np.diff(user) != 0) | (np.diff(entry) != 0))[:len(entry)]
    place = np.arange(len(entry))
    return (place - np.maximum.accumulate(np.where(first, place, 0))).astype(np.int32)


def _visits_of(table: pa.Table, done: int, gap: int, patience: int) -> pa.RecordBatch:
    """Visits of the first `done` rows; the row after them, where there is one, may be what closed the last."""
    starts = _starts(table, gap)
    ends = np.append(starts, table.num_rows)[1:]
    starts, ends = starts[ends <= done], ends[ends <= done]
    at = micros(plain(table["at"]))
    user = np.zeros(table.num_rows, np.int64)
    user[changes(table["user_id"])[1:]] = 1
    user = np.cumsum(user)
    after = np.minimum(ends, table.num_rows - 1)
    last = at[ends - 1]
    followed = (ends < table.num_rows) & (user[after] == user[starts]) & (at[after] - last <= gap)
    closed = np.where(followed, at[after], last + gap)
    dwell = np.where(followed, at[after], last) - at[starts]
    counted = [_ints(table, "n_shown"), _ints(table, "n_clicked"), _ints(table, "n_carted"), 1 - _ints(table, "is_page")]
    sums = [pa.array(np.add.reduceat(values[:done], starts).astype(np.int32)) for values in counted]
    chosen = pa.array(starts)
    return pa.RecordBatch.from_arrays([
        plain(table["user_id"]).take(chosen), plain(table["scene"]).take(chosen), _times(at[starts]),
        pa.array(_numbers(user[starts], at[starts])), _times(closed),
        _times(closed + patience), pa.array(dwell // 1_000), *sums,
        _top_categories(plain(table["category_id"]).slice(0, done), np.repeat(np.arange(len(starts)), ends - starts), len(starts)),
    ], schema=_SCHEMA)


def _ints(table: pa.Table, name: str) -> np.ndarray:
    return plain(table[name]).to_numpy(zero_copy_only=False).astype(np.int64)


def _times(values: np.ndarray) -> pa.Array:
    return pa.array(values).cast(pa.timestamp("us", tz="UTC"))


def _top_categories(category: pa.Array, visit: np.ndarray, n_visits: int) -> pa.ListArray:
    """The `_TOP` most frequent categories of each visit, by count, then name."""
    known = pc.is_valid(category).to_numpy(zero_copy_only=False)
    coded = category.filter(pa.array(known)).dictionary_encode()
    names = coded.dictionary
    rank = np.empty(len(names), np.int64)
    rank[pc.sort_indices(names).to_numpy()] = np.arange(len(names))
    size = max(len(names), 1)
    keys, counts = np.unique(visit[known] * size + rank[coded.indices.to_numpy()], return_counts=True)
    of = keys // size
    order = np.lexsort((keys, -counts, of))
    a_visit = np.bincount(of, minlength=n_visits)
    place = np.arange(len(keys)) - np.repeat(np.cumsum(a_visit) - a_visit, a_visit)
    chosen = (keys % size)[order][place < _TOP]
    offsets = np.concatenate(([0], np.cumsum(np.minimum(a_visit, _TOP))))
    return lists(offsets, names.take(pc.sort_indices(names)).take(pa.array(chosen)))


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    """Build a day of `visits` from the events and exposures of the day and of the day before."""
    used = recipe.movelines
    patience = max(used.visit_wait_s, used.delay_s, recipe.source.available_delay_s)
    config = {"gap_s": used.visit_gap_s, "patience_s": patience, "clicked": used.clicked_actions, "carted": used.carted_actions}
    days = days_until(ds, 2)

    def make(_: object) -> Made:
        events, exposures = lake.read(spark, "events", days), lake.read(spark, "exposures", days)
        steps = walk(events, exposures, used.clicked_actions, used.carted_actions)

        def counts(written: DataFrame) -> dict[str, int]:
            times = events.select(F.col("event_time").alias("at"), "available_time", "replaced_time")
            all_in = F.count(F.lit(1)), F.count_if(is_late(patience)), F.count_if(is_replaced(patience))
            came, late, replaced = times.agg(*all_in).first()
            return {"in": came, "out": written.agg(F.sum("n_tokens")).first()[0] or 0, "late": late, "replaced": replaced}

        return Made(closed_on(visits(steps, used.visit_gap_s, patience), ds), counts)

    read = {"events": days, "exposures": days}
    return build_day(lake.table("visits"), ds, lambda: inputs_of(lake, read, _CODE, config), make)
