"""Flows: rows for a generator of next interests. A row is a cut of a user's day: what was known before it, and the next items.

An interest is a token with an item (and one of `flows.actions`, when given) that was not corrected or deleted since; a run of
interests in one item counts once, when it began. A cut lies at an interest; of several at the same time, at the first, so that
the context, which is strictly before the cut, never holds an item of the future. The future is what happened, at whatever time it
became available: it is a target and never an input. It ends with the day, so that flows(d) needs no later day. Cuts are chosen by
hash of user and time.
"""

from dataclasses import dataclass
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import FLOWS
from feature_store.recipe import Flows, Movelines, Recipe
from feature_store.tables import Lake
from feature_store.worker_rows import WorkerRows
from jobs.context import CODE, Cuts, of_users, user_key, with_own_cuts
from jobs.day import DayResult, Made, build_day, days_until, inputs_of
from jobs.pieces import lists, micros, offsets_of, plain, spans
from jobs.ragged import Keys, Longs, mixed, smallest

_SEED = 20_250_609
_TOKEN = {"item_id": "future_item", "category_id": "future_category", "scene": "future_scene", "action": "future_action",
          "event_time": "future_time"}
_CUTS = pa.schema([FLOWS.schema.field(name) for name in ("user_id", "cut_time", *_TOKEN.values())])
_COUNTS = ("in", "merged", "same_time", "not_chosen")


def flows(movelines: DataFrame, visits: DataFrame, ds: str, settings: Flows, context: Movelines) -> WorkerRows:
    """The chosen cuts of a day with their context and future (first item next), by user and time in each partition.

    Parameters
    ----------
    movelines, visits : rows of these contracts, of the day and of those before it that a context may reach.

    Returns
    -------
    The columns of the `flows` contract without `ds`. Counted beside: `in` all interests of the day, `merged` repeats of the item
    before, `same_time` not the first at their time, `not_chosen` beyond the cuts of a day; the others are cuts.
    """
    key = F.when(F.col("ds") == ds, F.xxhash64(F.lit(_SEED), "user_id"))
    return with_own_cuts(movelines, visits, context, key, partial(_cuts, settings=settings), _CUTS, _COUNTS)


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    """Build a day of `flows` from the movelines and visits of that day and the days before it."""
    days = days_until(ds, recipe.movelines.days + 1)  # as in jobs.pages
    context = recipe.movelines.model_dump(include={"tokens", "visits", "days", "delay_s"})
    config = {"flows": recipe.flows.model_dump(), "movelines": context}

    def make(_: object) -> Made:
        today = lake.read(spark, "movelines", [ds])  # a row a user
        keys, users = today.select(user_key()), today.count()
        movelines, visits = (of_users(lake.read(spark, name, days), keys, users) for name in ("movelines", "visits"))
        return Made(flows(movelines, visits, ds, recipe.flows, recipe.movelines), lambda rows: {"out": rows.count()})

    inputs = partial(inputs_of, lake, {"movelines": days, "visits": days}, ["jobs.flows", "jobs.ragged", *CODE], config)
    return build_day(lake.table("flows"), ds, inputs, make)


@dataclass(frozen=True)
class _Interests:
    """Interests of some rows of movelines, without repeats.

    Attributes
    ----------
    tokens : flattened lists by column. at : [n] their positions in `tokens`. user : [n] their row. chosen : [m] positions in `at`.
    counts : see `flows`.
    """

    tokens: dict[str, pa.Array]
    at: Longs
    user: Longs
    chosen: Longs
    counts: dict[str, int]


def _cuts(table: pa.Table, settings: Flows) -> Cuts:
    """Runs on Spark's workers: the cuts of whole users, see `jobs.context.Cutter`."""
    keys = plain(table["key"])
    today = np.flatnonzero(keys.is_valid().to_numpy(zero_copy_only=False))
    own = plain(table["tokens"]).take(pa.array(today))
    found = _interests(own, keys.drop_null().to_numpy().view(np.uint64), settings)
    row = today[found.user[found.chosen]]
    cut = found.tokens["event_time"].take(pa.array(found.at[found.chosen]))
    users = plain(table["user_id"])

    def columns(part: slice) -> list[pa.Array]:
        return [users.take(pa.array(row[part])), cut[part], *_ahead(found, found.chosen[part], settings.future)]

    return Cuts(row, micros(cut), columns, settings.future, found.counts)


def _interests(days: pa.StructArray, keys: Keys, settings: Flows) -> _Interests:
    lists_of = {name: days.field(name) for name in (*_TOKEN, "replaced_time")}
    tokens = {name: column.flatten() for name, column in lists_of.items()}
    user = np.repeat(np.arange(len(days)), pc.list_value_length(lists_of["item_id"]).to_numpy(zero_copy_only=False))
    wanted = pc.and_(pc.is_valid(tokens["item_id"]), pc.is_null(tokens["replaced_time"]))
    if settings.actions is not None:
        wanted = pc.and_(wanted, pc.is_in(tokens["action"], pa.array(settings.actions, pa.string())))
    found = np.flatnonzero(wanted.to_numpy(zero_copy_only=False))
    item = tokens["item_id"].take(pa.array(found)).dictionary_encode().indices.to_numpy()
    at = found[_starts(user[found], item)]
    of, time = user[at], micros(tokens["event_time"].take(pa.array(at)))
    possible = np.flatnonzero(_starts(of, time))
    key = mixed(keys[of[possible]], time[possible].view(np.uint64))
    chosen = possible[smallest(of[possible], key, settings.cuts_a_day)]
    counts = (found.size, found.size - at.size, at.size - possible.size, possible.size - chosen.size)
    return _Interests(tokens, at, of, chosen, dict(zip(_COUNTS, counts, strict=True)))


def _starts(user: Longs, value: Longs) -> np.ndarray:
    """[n] bool, whether an element is the first of its user or differs from the one before."""
    return np.r_[True, (user[1:] != user[:-1]) | (value[1:] != value[:-1])][:user.size]


def _ahead(found: _Interests, chosen: Longs, future: int) -> list[pa.ListArray]:
    """The future_* lists of some of the chosen cuts."""
    end = np.searchsorted(found.user, found.user[chosen], side="right")
    length = np.minimum(end - chosen, future)
    offsets, taken = offsets_of(length), pa.array(found.at[spans(chosen, length)])
    return [lists(offsets, found.tokens[name].take(taken)) for name in _TOKEN]
