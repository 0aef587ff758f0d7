"""Which rows are good: rules compiled to one column expression, versions and repeats of one row, and the limit on rejects.

A row gets the reason of the first rule it breaks. Nothing is dropped without a name: rows in = rows out + rejects by reason
+ `superseded` (older versions of a corrected row) + `deleted` (rows taken back by a delete, and the deletes) + `click` (clicks that
live on in the row of what was shown).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import Column, DataFrame, Window
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from feature_store.contracts import CONTRACTS, TEXT, Contract
from feature_store.errors import InputError
from feature_store.recipe import Quality, Source
from feature_store.sources import BAD, OWN_TIME, RAW, hashed

STATUS, ROW = "_status", "_row"
OUT, SUPERSEDED, DELETED, JOINED = "out", "superseded", "deleted", "click"
KEPT = (OUT, SUPERSEDED, DELETED, JOINED)
MAX_ROW_CHARS, MAX_KEY_CHARS = 2_000, 200
MAX_FREE_BYTES = 65_536
"""Longest free text (a query), and longest JSON of a map (attributes, labels, features), in UTF-8 bytes."""

_FREE = {"query"}


@dataclass(frozen=True)
class Rule:
    """A named condition under which a row is refused."""

    reason: str
    broken: Column


def rules(table: str, quality: Quality, source: Source) -> list[Rule]:
    """The rules of a table, in the order in which they are asked."""
    contract = CONTRACTS[table]
    values = [*_required(contract), *_texts(contract, quality), *_ranges(contract)]
    return [*values, *_known(contract, source), *_times(contract, quality)]


def _required(contract: Contract) -> list[Rule]:
    names = [c for c in contract.required if c != "ds"]
    # A delete needs only to name the row it takes back.
    kept = (F.col("op") != "delete") if "op" in names else F.lit(True)
    spared = {"scene", "action"} if "op" in names else set()
    return [Rule(f"null_{c}", F.col(c).isNull() & kept if c in spared else F.col(c).isNull()) for c in names]


def _texts(contract: Contract, quality: Quality) -> list[Rule]:
    texts = [f.name for f in contract.schema if f.type == TEXT and f.name != "ds"]
    maps = [f.name for f in contract.schema if pa.types.is_map(f.type)]
    long = [Rule(f"{c}_too_long", F.octet_length(c) > (MAX_FREE_BYTES if c in _FREE else quality.max_text_bytes)) for c in texts]
    long += [Rule(f"{c}_too_long", F.octet_length(F.to_json(c)) > MAX_FREE_BYTES) for c in maps]
    return long + [Rule(f"{c}_not_utf8", ~F.is_valid_utf8(F.col(c))) for c in texts]


def _ranges(contract: Contract) -> list[Rule]:
    price, infinite = F.col("price"), float("inf")
    every = {
        "position": Rule("negative_position", F.col("position") < 0),
        "price": Rule("price_out_of_range", F.isnan(price) | (price < 0) | (price == infinite)),
        "dwell_ms": Rule("negative_dwell_ms", F.col("dwell_ms") < 0),
    }
    return [rule for column, rule in every.items() if column in contract.columns]


def _known(contract: Contract, source: Source) -> list[Rule]:
    allowed = {"scene": source.scenes, "action": source.actions, "op": ["upsert", "delete"]}
    return [Rule(f"unknown_{c}", ~F.col(c).isin(values)) for c, values in allowed.items()
            if values is not None and c in contract.columns]


def _times(contract: Contract, quality: Quality) -> list[Rule]:
    slack = F.expr(f"interval {quality.max_future_s} seconds")
    # A description may be known before it becomes valid.
    own = OWN_TIME[contract.name] if contract.name not in ("items", "users") else None
    found = [Rule("time_in_future", F.col(own) > F.col("available_time") + slack)] if own else []
    if "label_time" in contract.columns:
        found.append(Rule("label_before_shown", F.col("label_time") < F.col("shown_time")))
    return found


def judged(frame: DataFrame, table: str, quality: Quality, source: Source, keep: Callable[[DataFrame], DataFrame]) -> DataFrame:
    """Rows with what becomes of each.

    Parameters
    ----------
    frame : as `Source.rows` gives it, or after `ruled`. keep : marks a frame to be computed once, until it is released.

    Returns
    -------
    The contract's columns without `ds`; `_status`: `out`, `superseded`, `deleted` or the reason of a reject; `_row`: the raw row as
    truncated JSON where it was refused by a rule, else null.
    """
    marked = frame if STATUS in frame.columns else ruled(frame, table, quality, source)
    if table == "clicks":  # two clicks on one thing within a second are two clicks
        return marked.withColumn(STATUS, F.coalesce(STATUS, F.lit(OUT)))
    if table == "events" and not any("event_id" in m.columns for m in source.events):  # made ids: no two rows share one
        return marked.withColumn(STATUS, F.coalesce(STATUS, F.when(F.col("op") == "delete", DELETED), F.lit(OUT)))
    return _versions(marked, CONTRACTS[table], keep)


def ruled(frame: DataFrame, table: str, quality: Quality, source: Source) -> DataFrame:
    """Rows with `_status`, the reason of a reject or null, and `_row` as `judged` gives it; `_raw` may be a struct or JSON."""
    reason = F.coalesce(F.col(BAD), *[F.when(r.broken, F.lit(r.reason)) for r in rules(table, quality, source)])
    text = F.to_json(F.col(RAW)) if isinstance(frame.schema[RAW].dataType, StructType) else F.col(RAW)
    marked = frame.withColumn(STATUS, reason)
    return marked.withColumn(ROW, F.when(F.col(STATUS).isNotNull(), short_json(text))).drop(BAD, RAW)


def short_json(text: Column) -> Column:
    """A row's JSON, cut to a bounded length and made valid UTF-8."""
    return F.make_valid_utf8(F.substring(text, 1, MAX_ROW_CHARS))


def _versions(frame: DataFrame, contract: Contract, keep: Callable[[DataFrame], DataFrame]) -> DataFrame:
    # Almost every key occurs once: only the others' rows go through the shuffle and the sort that tell versions apart. The size of
    # the others' keys is known once they are counted: few are then sent to every row instead of every row to them.
    key = F.when(F.col(STATUS).isNull(), F.xxhash64(*contract.key))  # bad rows take no part
    keyed = frame.withColumn("_key", key)
    again = keep(keyed.where(F.col("_key").isNotNull()).groupBy("_key").agg(F.count("*").alias("n")).where("n > 1").select("_key"))
    again.count()
    alone, several = (keyed.join(again, "_key", how).drop("_key") for how in ("left_anti", "left_semi"))
    taken = _is_delete(contract) & F.col(STATUS).isNull()
    alone = alone.withColumn(STATUS, F.coalesce(STATUS, F.when(taken, DELETED), F.lit(OUT)))
    return alone.unionByName(_compared(several, contract))


def _is_delete(contract: Contract) -> Column:
    return F.col("op") == "delete" if "op" in contract.columns else F.lit(False)


def _compared(good: DataFrame, contract: Contract) -> DataFrame:
    said = [c for c in contract.columns if c not in ("ds", "available_time", "replaced_time")]
    frame = good.withColumn("_content", F.xxhash64(*[hashed(F.col(c), good.schema[c].dataType) for c in said]))
    return (_newest if "op" not in contract.columns else _versioned)(frame, contract).drop("_content")


def _newest(frame: DataFrame, contract: Contract) -> DataFrame:
    # Of the rows of one key the newest available stands. The same content delivered again counts from its first arrival; an older,
    # different version is superseded; the rest are repeats.
    group = Window.partitionBy(*contract.key)
    newest = group.orderBy(F.col("available_time").desc(), F.col("_content").desc())
    frame = frame.withColumns({"_top": F.first("_content").over(newest), "_last": F.first("available_time").over(newest)})
    same = F.col("_content") == F.col("_top")
    frame = frame.withColumn("_place", F.row_number().over(group.orderBy(same.desc(), F.col("available_time"))))
    older = ~same & (F.col("available_time") < F.col("_last"))
    status = (F.when(F.col("_place") == 1, F.lit(OUT)).when(older, F.lit(SUPERSEDED))
              .otherwise(F.lit(f"duplicate_{contract.name.removesuffix('s')}")))
    return frame.withColumn(STATUS, status).drop("_top", "_last", "_place")


def _versioned(frame: DataFrame, contract: Contract) -> DataFrame:
    # Every version lasts from its available_time until the next one's; a delete ends one and begins none. Of several at one time
    # the delete counts, and what says the same as the version before is a repeat of it.
    delete = _is_delete(contract)
    group = Window.partitionBy(*contract.key)
    order = group.orderBy("available_time", delete, "_content")
    at_once = Window.partitionBy(*contract.key, "available_time").orderBy(delete.desc(), F.col("_content").desc())
    wins = F.col("_content") == F.first("_content").over(at_once)
    frame = frame.withColumn("_wins", F.when(wins, F.col("_content")))
    before = F.last("_wins", ignorenulls=True).over(order.rowsBetween(Window.unboundedPreceding, -1))
    begins = F.col("_wins").isNotNull() & ~F.col("_wins").eqNullSafe(before)
    frame = frame.withColumn("_begins", F.when(begins, F.col("available_time")))
    after = F.first("_begins", ignorenulls=True).over(order.rowsBetween(1, Window.unboundedFollowing))
    newest = F.last(delete).over(order.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing))
    frame = frame.withColumns({"replaced_time": F.when(F.col("_begins").isNotNull(), after), "_taken": newest})
    status = (F.when(F.col("_begins").isNull(), F.lit(f"duplicate_{contract.name.removesuffix('s')}"))
              .when(F.col("_taken"), F.lit(DELETED)).when(F.col("replaced_time").isNotNull(), F.lit(SUPERSEDED))
              .otherwise(F.lit(OUT)))
    return frame.withColumn(STATUS, status).drop("_wins", "_begins", "_taken")


def stored(rows: DataFrame, table: str) -> DataFrame:
    """The judged rows that a table keeps: the good ones and, of events, versions that were replaced or deleted since.

    What was known at an earlier time is needed for as long as pages of that time can be built.
    """
    kept = F.col(STATUS) == OUT
    if "replaced_time" in CONTRACTS[table].columns:
        kept = kept | (F.col(STATUS).isin(SUPERSEDED, DELETED) & F.col("replaced_time").isNotNull() & (F.col("op") == "upsert"))
    return rows.where(kept)


def refused(frame: DataFrame, table: str, ds: str) -> DataFrame:
    """The rejects among judged rows, as rows of the table `rejects`."""
    contract = CONTRACTS[table]
    columns = [c for c in contract.columns if c != "ds"]
    whole = F.to_json(F.struct(*[F.substring(c, 1, MAX_ROW_CHARS).alias(c) if contract.schema.field(c).type == TEXT else F.col(c)
                                 for c in columns]))
    key = F.concat_ws("/", *[F.coalesce(F.substring(F.col(c).cast("string"), 1, MAX_KEY_CHARS), F.lit("")) for c in contract.key])
    bad = frame.where(~F.col(STATUS).isin(*KEPT))
    return bad.select(F.lit(table).alias("origin"), F.col(STATUS).alias("reason"),
                      F.make_valid_utf8(F.substring(key, 1, MAX_KEY_CHARS)).alias("row_key"),
                      F.coalesce(F.col(ROW), short_json(whole), F.lit("{}")).alias("row"), F.lit(ds).alias("ds"))


def accounted(statuses: Mapping[str, int]) -> dict[str, int]:
    """Row accounting from the number of rows of each status.

    Examples
    --------
    >>> accounted({"out": 8, "superseded": 1, "null_user_id": 1})
    {'in': 10, 'out': 8, 'superseded': 1, 'reject.null_user_id': 1}
    """
    found = {k: statuses[k] for k in KEPT if k in statuses}
    rejects = {f"reject.{k}": n for k, n in sorted(statuses.items()) if k not in KEPT}
    return {"in": sum(statuses.values()), "out": found.pop(OUT, 0), **found, **rejects}


def within_limit(counts: Mapping[str, int], origin: str, ds: str, quality: Quality, recipe_path: str) -> None:
    """Stop when too many rows were refused.

    Raises
    ------
    InputError : names table, share, limit, the commonest reasons and where to look.
    """
    rejects = {k.removeprefix("reject."): n for k, n in counts.items() if k.startswith("reject.")}
    refused_rows, rows = sum(rejects.values()), counts["in"]
    if not rows or refused_rows / rows <= quality.max_reject_share:
        return
    top = ", ".join(f"{k} {n}" for k, n in sorted(rejects.items(), key=lambda kv: (-kv[1], kv[0]))[:3])
    raise InputError(f"{origin}, ds={ds}: {refused_rows} of {rows} rows ({refused_rows / rows:.1%}) were rejected, above "
                     f"quality.max_reject_share = {quality.max_reject_share:.1%}: {top}; look at them with "
                     f"`moveline tables rejects --conf {recipe_path} --ds {ds}`; this table's day was not changed")
