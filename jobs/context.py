"""What was known of a user at a cut: the last tokens of the moveline and the last visits, exact also when rows arrive late.

A row cut at t uses a token only if event_time < t - delay and available_time <= t, and a visit only if closed_time < t - delay and
available_time <= t. Both are one condition, `ready <= t`, with ready = max(time + delay + 1 microsecond, available_time). A token
that was corrected or deleted is used up to its replaced_time: t < replaced_time.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import to_arrow_schema
from pyspark.sql.types import StructType

from feature_store.contracts import FLOWS
from feature_store.recipe import Movelines
from feature_store.session import spark_schema
from feature_store.worker_rows import WorkerRows
from jobs.pieces import changes, lists, micros, offsets_of, pieces, plain, spans, user_starts

CODE = ("jobs.context", "jobs.pieces")
"""Modules whose change makes every table with a context run again."""

_TOKENS, _VISITS, _CUT = range(3)
"""Kinds of rows that workers get: a day of a user's moveline, a visit, a cut."""
_ORDER = ("user_id", "kind", "at", "visit")
_TOKEN = ["event_time", "available_time", "scene", "action", "item_id", "category_id", "replaced_time"]
_VISIT = ["entry_time", "closed_time", "available_time", "scene", "dwell_ms", "n_shown", "n_clicked", "n_carted"]
_SCHEMA = pa.schema([f for f in FLOWS.schema if f.name.startswith(("moveline_", "visit_"))])
CONTEXT_COLUMNS: tuple[str, ...] = tuple(_SCHEMA.names)
"""Columns that `with_context` adds, in order."""

_NEVER = np.iinfo(np.int64).max
_DAY = 86_400 * 1_000_000
_CHUNK = 65_536
_MAX_LOOKED_AT = 1_048_576
"""Tokens (or visits) looked at in one step: a user with very many cuts is worked on in several."""
_MOST_SENT = 1_000_000
"""Users whose keys are sent to every task, some 30 bytes each."""


@dataclass(frozen=True)
class Cuts:
    """Cuts of a piece's users, by user and time.

    Attributes
    ----------
    row : [n] int64, a row of the piece that is of the cut's user. time : [n] int64, microseconds.
    columns : from a slice of the cuts to what is handed out for them before `CONTEXT_COLUMNS`. longest : values in a list of these
    at most. counts : what is counted beside (`WorkerRows.beside`).
    """

    row: np.ndarray
    time: np.ndarray
    columns: Callable[[slice], list[pa.Array]]
    longest: int = 1
    counts: dict[str, int] = field(default_factory=dict)


Cutter = Callable[[pa.Table], Cuts]
"""From the rows of whole users, sorted (`user_id`, `kind`, `at`, `tokens`, ...), to their cuts."""


def with_context(cuts: DataFrame, movelines: DataFrame, visits: DataFrame, settings: Movelines,
                 partitions: int | None = None) -> WorkerRows:
    """Attach to every cut what was known of its user then.

    One shuffle, by user. A task holds about `_CHUNK` rows (or one user, when that is more) and `_MAX_LOOKED_AT` tokens of context.

    Parameters
    ----------
    cuts : any rows with `user_id` and `cut_time`, none null; no columns of maps. movelines, visits : rows of the days that may
        be used; tokens and visits more than `settings.days` times 24 hours before the cut are not.
    partitions : number of partitions (by hash of the user); None leaves it to Spark.

    Returns
    -------
    The columns of `cuts` and `CONTEXT_COLUMNS`, oldest first, sorted by (user_id, cut_time) in each partition.
    """
    wanted = cuts.select("user_id", F.lit(_CUT).alias("kind"), F.col("cut_time").alias("at"), F.struct(*cuts.columns).alias("cut"))
    rows = _walks(movelines, visits).unionByName(wanted, True)
    spread = rows.repartition("user_id") if partitions is None else rows.repartition(partitions, "user_id")
    ordered = spread.sortWithinPartitions(*_ORDER, "cut")
    schema = to_arrow_schema(StructType([*cuts.schema.fields, *spark_schema(_SCHEMA).fields]))
    return WorkerRows(ordered, partial(_attached, schema=schema, cutter=_given, settings=settings), schema)


def with_own_cuts(movelines: DataFrame, visits: DataFrame, settings: Movelines, key: Column, cutter: Cutter, schema: pa.Schema,
                  counted: tuple[str, ...]) -> WorkerRows:
    """As `with_context`, for cuts that the workers find in the movelines themselves.

    Parameters
    ----------
    key : what the cutter finds in the column `key`; null for visits, and for rows of movelines that have no cuts.
    schema : of the columns that the cutter makes. counted : what it counts.
    """
    ordered = _walks(movelines, visits, key.alias("key")).repartition("user_id").sortWithinPartitions(*_ORDER)
    whole = pa.schema([*schema, *_SCHEMA])
    return WorkerRows(ordered, partial(_attached, schema=whole, cutter=cutter, settings=settings), whole, counted)


def of_users(rows: DataFrame, keys: DataFrame, users: int) -> DataFrame:
    """The rows of some users, and of those who have the same key by chance.

    When they are too many to be sent to every task, all rows are given back.

    Parameters
    ----------
    keys : what `user_key` gives for these users. users : how many there are.
    """
    if users > _MOST_SENT:
        return rows
    return rows.join(F.broadcast(keys), user_key() == keys["user_key"], "left_semi")


def user_key() -> Column:
    """Eight bytes in place of a user's id."""
    return F.xxhash64("user_id").alias("user_key")


def _walks(movelines: DataFrame, visits: DataFrame, *more: Column) -> DataFrame:
    tokens = movelines.select("user_id", F.lit(_TOKENS).alias("kind"), F.get("event_time", F.lit(0)).alias("at"),
                              F.struct(*_TOKEN[:-1], replaced_times()).alias("tokens"), *more)
    top = F.get("categories", F.lit(0)).alias("category")
    stays = visits.select("user_id", F.lit(_VISITS).alias("kind"), F.col("closed_time").alias("at"),
                          F.struct(*_VISIT, top).alias("visit"))
    return tokens.unionByName(stays, True)


def replaced_times() -> Column:
    """The list `replaced_time` of a row of movelines; all null in days that were built before events had versions."""
    return F.coalesce("replaced_time", F.transform("event_time", lambda _: F.lit(None).cast("timestamp"))).alias("replaced_time")


def _attached(batches: Iterator[pa.RecordBatch], schema: pa.Schema, cutter: Cutter,
              settings: Movelines) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers."""
    for piece in pieces(batches, user_starts, rows=_CHUNK):
        table = piece.table.slice(0, piece.done)
        cuts = cutter(table)
        if len(cuts.row):
            yield from _piece(table, cuts, schema, settings)
        if cuts.counts:
            yield pa.RecordBatch.from_pydict({name: [count] for name, count in cuts.counts.items()})


def _rows_of(table: pa.Table, kind: int) -> np.ndarray:
    return np.flatnonzero(plain(table["kind"]).to_numpy() == kind)


def _given(table: pa.Table) -> Cuts:
    rows = _rows_of(table, _CUT)
    cuts = plain(table["cut"])
    return Cuts(rows, micros(plain(table["at"]).take(pa.array(rows))), lambda part: cuts.take(pa.array(rows[part])).flatten())


def _piece(table: pa.Table, cuts: Cuts, schema: pa.Schema, settings: Movelines) -> Iterator[pa.RecordBatch]:
    users = np.zeros(table.num_rows, np.int64)
    users[changes(table["user_id"])[1:]] = 1
    users = np.cumsum(users)
    rows = [_rows_of(table, kind) for kind in (_TOKENS, _VISITS)]
    tokens = _Walk.of_movelines(plain(table["tokens"]).take(pa.array(rows[0])), users[rows[0]], settings)
    visits = _Walk.of_visits(plain(table["visit"]).take(pa.array(rows[1])), users[rows[1]], settings)
    user = users[cuts.row]
    widest = max(settings.tokens, settings.visits, cuts.longest)
    reach = [tokens.reach(user, cuts.time, settings.tokens), visits.reach(user, cuts.time, settings.visits)]
    looked_at = np.maximum(np.maximum(reach[0][1], reach[1][1]), widest)
    for first, last in _blocks(looked_at):
        part = slice(first, last)
        known = [walk.last(start[part], length[part], cuts.time[part], most)
                 for walk, (start, length), most in zip((tokens, visits), reach, (settings.tokens, settings.visits), strict=True)]
        columns = [*cuts.columns(part), *known[0], *known[1]]
        yield pa.RecordBatch.from_arrays([c.cast(f.type) for c, f in zip(columns, schema, strict=True)], schema=schema)


def _blocks(weights: np.ndarray) -> Iterator[tuple[int, int]]:
    """Spans of rows whose weights add up to at most `_MAX_LOOKED_AT` (or one row)."""
    total = np.cumsum(weights)
    first = 0
    while first < len(weights):
        before = total[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(total, before + _MAX_LOOKED_AT, side="right")))
        yield first, last
        first = last


@dataclass(frozen=True)
class _Walk:
    """Tokens (or visits) of some users, sorted by user and time.

    Attributes
    ----------
    user, time, ready : [n] int64. until : [n] int64, when another version took its place. late : [n] bool, a later entry of the
    user is ready sooner, or it is replaced one day: not every cut after it uses it.
    earliest : [n] int64, when the first of this and all later entries of the user is ready (never falls within a user).
    values : the columns to hand out. window : how far before a cut an entry may lie, microseconds.
    """

    user: np.ndarray
    time: np.ndarray
    ready: np.ndarray
    until: np.ndarray
    late: np.ndarray
    earliest: np.ndarray
    values: list[pa.Array]
    window: int

    @classmethod
    def of_movelines(cls, rows: pa.StructArray, user: np.ndarray, settings: Movelines) -> "_Walk":
        columns = dict(zip(_TOKEN, rows.flatten(), strict=True))
        lengths = pc.list_value_length(columns["event_time"]).to_numpy(zero_copy_only=False).astype(np.int64)
        flat = {name: column.flatten() for name, column in columns.items()}
        names = ("event_time", "scene", "action", "item_id", "category_id")
        times = micros(flat["event_time"]), micros(flat["available_time"])
        until = flat["replaced_time"].cast(pa.int64()).fill_null(_NEVER).to_numpy()
        return cls._of(np.repeat(user, lengths), *times, until, [flat[n] for n in names], settings)

    @classmethod
    def of_visits(cls, rows: pa.StructArray, user: np.ndarray, settings: Movelines) -> "_Walk":
        flat = dict(zip([*_VISIT, "category"], rows.flatten(), strict=True))
        names = ("entry_time", "scene", "dwell_ms", "n_shown", "n_clicked", "n_carted", "category")
        times = micros(flat["closed_time"]), micros(flat["available_time"])
        return cls._of(user, *times, np.full(len(user), _NEVER), [flat[n] for n in names], settings)

    @classmethod
    def _of(cls, user: np.ndarray, time: np.ndarray, available: np.ndarray, until: np.ndarray, values: list[pa.Array],
            settings: Movelines) -> "_Walk":
        ready = np.maximum(time + settings.delay_s * 1_000_000 + 1, available)
        # The running minimum from the right, within each user: ranks are lifted by the user's number, so that it starts anew.
        order = np.argsort(ready, kind="stable")
        rank = np.empty(len(ready), np.int64)
        rank[order] = np.arange(len(ready))
        lifted = user * len(ready) + rank
        least = np.minimum.accumulate(lifted[::-1])[::-1]
        earliest = ready[order][least - user * len(ready)]
        return cls(user, time, ready, until, (ready > earliest) | (until < _NEVER), earliest, values, settings.days * _DAY)

    def reach(self, user: np.ndarray, cut: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Where to look for the last `most` entries ready at each cut: ([m] start, [m] length), late ones in between included.

        Every entry from start + length on is not ready, and only late ones before it may not be.
        """
        end = _before(self.user, self.earliest, user, cut + 1)
        first = np.minimum(_before(self.user, self.time, user, cut - self.window), end)
        prompt = np.flatnonzero(~self.late)
        seen = offsets_of(~self.late)
        target = seen[end] - most
        inside = target >= seen[first]
        start = first if not len(prompt) else np.where(inside, prompt[np.clip(target, 0, len(prompt) - 1)], first)
        start = np.where(most == 0, end, np.maximum(start, first))
        return start, end - start

    def last(self, start: np.ndarray, length: np.ndarray, cut: np.ndarray, most: int) -> list[pa.ListArray]:
        """The last `most` entries ready at each cut, as lists, one array for each column of `values`."""
        at = spans(start, length)
        row = np.repeat(np.arange(len(start)), length)
        then = np.repeat(cut, length)
        known = (self.ready[at] <= then) & (then < self.until[at])
        at, row = at[known], row[known]
        counts = np.bincount(row, minlength=len(start))
        from_end = np.repeat(np.cumsum(counts), counts) - np.arange(len(at))
        at = pa.array(at[from_end <= most])
        offsets = offsets_of(np.minimum(counts, most))
        return [lists(offsets, column.take(at)) for column in self.values]


def _before(user: np.ndarray, time: np.ndarray, other: np.ndarray, cut: np.ndarray) -> np.ndarray:
    """[m] int64, for each cut the number of entries that sort strictly before (its user, its time); entries are sorted by both."""
    is_entry = np.concatenate((np.zeros(len(other), bool), np.ones(len(user), bool)))
    order = np.lexsort((is_entry, np.concatenate((cut, time)), np.concatenate((other, user))))
    sorted_entry = is_entry[order]
    count = np.cumsum(sorted_entry)
    result = np.empty(len(other), np.int64)
    result[order[~sorted_entry]] = count[~sorted_entry]
    return result
