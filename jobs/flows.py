"""Flows: rows for a generator of next interests. A row is a cut of a user's day: what was known before it, and the next items.

An interest is a token with an item (and one of `flows.actions`, when given) that was not corrected or deleted since; a run of
interests in one item counts once, when it began. A cut lies at an interest; of several at the same time, at the first, so that
the context, which is strictly before the cut, never holds an item of the future. The future is what happened, at whatever time it
became available: it is a target and never an input. It ends with the day, so that flows(d) needs no later day. Cuts are chosen by
hash of user and time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import FLOWS
from feature_store.recipe import Flows, Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs.context import CODE, replaced_times, with_context
from jobs.day import DayResult, Made, build_day, days_until, inputs_of
from jobs.pieces import lists, micros, offsets_of, spans
from jobs.ragged import Keys, Longs, mixed, smallest

_SEED = 20_250_609
_TOKEN = {"item_id": "future_item", "category_id": "future_category", "scene": "future_scene", "action": "future_action",
          "event_time": "future_time"}
_CUTS = pa.schema([FLOWS.schema.field(name) for name in ("user_id", "cut_time", *_TOKEN.values())])
_COUNTS = pa.schema([pa.field(name, pa.int64(), False) for name in ("in", "merged", "same_time", "not_chosen")])


def cuts(movelines: DataFrame, settings: Flows) -> DataFrame:
    """The chosen cuts of a day: user_id, cut_time and the future_* lists, first item next.

    Parameters
    ----------
    movelines : rows of the MOVELINES contract, of one day (one row a user).
    """
    return _per_batch(movelines, settings, _future, _CUTS)


def cut_counts(movelines: DataFrame, settings: Flows) -> dict[str, int]:
    """What became of the interests of a day: `in` all of them, `merged` repeats of the item before, `same_time` not the first at
    their time, `not_chosen` beyond the cuts of a day; the others are cuts."""
    sums = _per_batch(movelines, settings, _accounts, _COUNTS).agg(*(F.sum(f.name).alias(f.name) for f in _COUNTS)).first()
    return {f.name: int((sums[f.name] if sums else 0) or 0) for f in _COUNTS}


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    """Build a day of `flows` from the movelines and visits of that day and the days before it."""
    days = days_until(ds, recipe.movelines.days + 1)  # as in jobs.pages
    context = recipe.movelines.model_dump(include={"tokens", "visits", "days", "delay_s"})
    config = {"flows": recipe.flows.model_dump(), "movelines": context}

    def make(_: object) -> Made:
        today = lake.read(spark, "movelines", [ds])
        movelines, visits = (lake.read(spark, name, days) for name in ("movelines", "visits"))
        found = with_context(cuts(today, recipe.flows), movelines, visits, recipe.movelines)
        return Made(found, lambda rows: {**cut_counts(today, recipe.flows), "out": rows.count()})

    inputs = partial(inputs_of, lake, {"movelines": days, "visits": days}, ["jobs.flows", "jobs.ragged", *CODE], config)
    return build_day(lake.table("flows"), ds, inputs, make)


@dataclass(frozen=True)
class _Interests:
    """Interests of an Arrow batch of movelines, without repeats.

    Attributes
    ----------
    tokens : flattened lists by column. at : [n] their positions in `tokens`. user : [n] their row. chosen : [m] positions in `at`.
    counts : see `cut_counts`.
    """

    tokens: dict[str, pa.Array]
    at: Longs
    user: Longs
    chosen: Longs
    counts: dict[str, int]


def _per_batch(movelines: DataFrame, settings: Flows, work: Callable[[pa.RecordBatch, _Interests, int], pa.RecordBatch],
               schema: pa.Schema) -> DataFrame:
    keyed = movelines.select("user_id", *_TOKEN, replaced_times(), F.xxhash64(F.lit(_SEED), "user_id").alias("_key"))
    return keyed.mapInArrow(partial(_batches, settings=settings, work=work), spark_schema(schema))


def _batches(batches: Iterator[pa.RecordBatch], settings: Flows,
             work: Callable[[pa.RecordBatch, _Interests, int], pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        yield work(batch, _interests(batch, settings), settings.future)


def _interests(batch: pa.RecordBatch, settings: Flows) -> _Interests:
    tokens = {name: batch.column(name).flatten() for name in _TOKEN}
    user = np.repeat(np.arange(batch.num_rows), np.diff(batch.column("item_id").offsets.to_numpy()))
    wanted = pc.and_(pc.is_valid(tokens["item_id"]), pc.is_null(batch.column("replaced_time").flatten()))
    if settings.actions is not None:
        wanted = pc.and_(wanted, pc.is_in(tokens["action"], pa.array(settings.actions, pa.string())))
    found = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
    item = tokens["item_id"].take(pa.array(found)).dictionary_encode().indices.to_numpy()
    at = found[_starts(user[found], item)]
    of, time = user[at], micros(tokens["event_time"].take(pa.array(at)))
    possible = np.flatnonzero(_starts(of, time))
    user_key: Keys = batch.column("_key").to_numpy().view(np.uint64)[of[possible]]
    key = mixed(user_key, time[possible].view(np.uint64))
    chosen = possible[smallest(of[possible], key, settings.cuts_a_day)]
    counts = {"in": found.size, "merged": found.size - at.size, "same_time": at.size - possible.size,
              "not_chosen": possible.size - chosen.size}
    return _Interests(tokens, at, of, chosen, counts)


def _starts(user: Longs, value: Longs) -> np.ndarray:
    """[n] bool, whether an element is the first of its user or differs from the one before."""
    return np.r_[True, (user[1:] != user[:-1]) | (value[1:] != value[:-1])][:user.size]


def _future(batch: pa.RecordBatch, found: _Interests, future: int) -> pa.RecordBatch:
    user = found.user[found.chosen]
    end = np.searchsorted(found.user, user, side="right")
    length = np.minimum(end - found.chosen, future)
    offsets, taken = offsets_of(length), pa.array(found.at[spans(found.chosen, length)])
    ahead = [lists(offsets, found.tokens[name].take(taken)) for name in _TOKEN]
    cut = found.tokens["event_time"].take(pa.array(found.at[found.chosen]))
    return pa.RecordBatch.from_arrays([batch.column("user_id").take(pa.array(user)), cut, *ahead], _CUTS.names)


def _accounts(_: pa.RecordBatch, found: _Interests, __: int) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([found.counts[f.name]]) for f in _COUNTS], _COUNTS.names)
