"""The vocabulary: every id gets, on the day it is first seen, an index that it keeps for ever.

Append-only and serial: a day's run adds the ids that no day has yet, after the highest index there is, in the order of the id.
Running a day again, also after later days were built, changes no index.
"""

import functools

from pyspark.sql import DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from feature_store.errors import ConfigError, ConflictError
from feature_store.recipe import Recipe
from feature_store.tables import Lake, union_all
from jobs.day import DayResult, Made, build_day, inputs_of

_SOURCES: dict[str, dict[str, tuple[str, ...]]] = {
    "events": {"item": ("item_id",), "category": ("category_id",), "scene": ("scene",), "action": ("action",)},
    "exposures": {"item": ("item_id", "trigger_item_id"), "scene": ("scene",), "scenario": ("scenario",)},
    "items": {"item": ("item_id",), "category": ("category_id",)},
}
"""Table -> field -> columns that hold its ids."""

_ATTEMPTS = 3


def day_ids(frames: dict[str, DataFrame]) -> DataFrame:
    """The distinct ids of some tables: field, id, first_time (the earliest moment one of its rows was available).

    Parameters
    ----------
    frames : table name (events, exposures, items) -> its rows.
    """
    found = [_ids_of(frame, _SOURCES[name]) for name, frame in frames.items()]
    return union_all(found).groupBy("field", "id").agg(F.min("available_time").alias("first_time"))


def _ids_of(frame: DataFrame, columns: dict[str, tuple[str, ...]]) -> DataFrame:
    pairs = [F.struct(F.lit(field).alias("field"), F.col(c).alias("id")) for field, names in columns.items() for c in names]
    one = frame.select("available_time", F.explode(F.array(*pairs)).alias("entry")).select("available_time", "entry.*")
    return one.where("id is not null")


def new_entries(ids: DataFrame, known: DataFrame, buckets: int) -> DataFrame:
    """Ids that are not known yet, with the indexes that follow the highest known one of their field, ordered by id."""
    highest = known.groupBy("field").agg(F.max("index").alias("highest"))
    place = F.row_number().over(Window.partitionBy("field").orderBy("id"))
    return (ids.join(known.select("field", "id"), ["field", "id"], "left_anti").join(F.broadcast(highest), "field", "left")
            .select("field", "id", (F.coalesce("highest", F.lit(buckets)) + place).cast("long").alias("index"), "first_time"))


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    """Add the ids first seen on a day. Two days built at once do not mix: the later commit is computed again.

    Raises
    ------
    ConfigError : the recipe's number of buckets is not the one the vocabulary was started with.
    ConflictError : other days were committed meanwhile, several times in a row.
    """
    for _ in range(_ATTEMPTS - 1):
        try:
            return _build(spark, recipe, lake, ds)
        except ConflictError:
            continue
    return _build(spark, recipe, lake, ds)


def _build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    table = lake.table("vocabulary")
    config = {"buckets": recipe.vocabulary_buckets}
    inputs = functools.partial(inputs_of, lake, {name: [ds] for name in _SOURCES}, ["jobs.vocabulary"], config)

    def make(_: object) -> Made:
        # The version is fixed here: what is read as known is what the new indexes follow.
        known = table.read(spark, version=table.version())
        _check_buckets(known, recipe)
        ids = day_ids({name: lake.read(spark, name, [ds]) for name in _SOURCES})
        kept = known.where(F.col("ds") == ds).drop("ds")

        def counts(written: DataFrame) -> dict[str, int]:
            total, added = ids.count(), written.count() - kept.count()
            return {"in": total, "known": total - added, "new": added}

        rows = kept.unionByName(new_entries(ids, known, recipe.vocabulary_buckets))
        return Made(rows.withColumn("ds", F.lit(ds)), counts)

    return build_day(table, ds, inputs, make)


def _check_buckets(known: DataFrame, recipe: Recipe) -> None:
    lowest = known.agg(F.min("index").alias("lowest")).first()
    if lowest and lowest.lowest is not None and lowest.lowest != recipe.vocabulary_buckets + 1:
        raise ConfigError(f"recipe {recipe.name}: vocabulary_buckets is {recipe.vocabulary_buckets}, but its vocabulary "
                          f"was started with {lowest.lowest - 1}; an index never changes its meaning, so set it back")
