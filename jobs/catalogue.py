"""The versions of items that a day's pages may need, without reading every day of items before it.

Rows of `items` are versions, so those of all days up to a day are what its pages can know. The table `catalogue` gathers them now
and then: one of a day has all that cuts of that day or later may need of the days before. Pages read the newest one and the days of
items since. A new one is made when those days hold more rows than the one they follow, so that a day reads at most about two
catalogues and its own items, however long the history is, and a shop whose items seldom change seldom writes one.
"""

from collections.abc import Iterable, Mapping

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.day_commits import DayCommit, fingerprint
from feature_store.tables import Lake
from jobs.day import Made, build_day, day_start, inputs_of

FEW = 100_000
"""Rows of items that are read anew every day rather than gathered."""

_COLUMNS = ("item_id", "valid_from", "available_time", "category_id")


def known_versions(spark: SparkSession, lake: Lake, ds: str) -> DataFrame:
    """item_id, valid_from, available_time, category_id: all versions that cuts of a day may need, some that they do not among them.

    Makes the catalogue of the day first, if so many rows came since the newest one.

    Raises
    ------
    ConflictError : another writer made it meanwhile.
    """
    items, days = lake.table("items"), item_days(lake, ds)
    commits = items.commits(days, items.open()) if days else {}
    start, known = _newest(lake, ds, commits)
    came = sum(own.rows for day, own in commits.items() if start <= day < ds)
    if came > max(FEW, known):
        _gather(spark, lake, ds, start, known + came, commits)
        start = ds
    return _read(spark, lake, start, [day for day in days if day >= start])


def item_days(lake: Lake, ds: str) -> list[str]:
    """Days up to one that have items, ascending."""
    return [day for day in lake.table("items").days() if day <= ds]


def item_versions(rows: DataFrame, ds: str) -> DataFrame:
    """item_id, versions: what a cut of day `ds` or later may need, as structs (valid_from, available_time, category_id)."""
    version = F.struct("valid_from", "available_time", "category_id")
    known = F.greatest("valid_from", "available_time") <= F.lit(day_start(ds))
    old, new = F.max(F.when(known, version)), F.collect_list(F.when(~known, version))
    return rows.groupBy("item_id").agg(F.array_compact(F.concat(F.array(old), new)).alias("versions"))


def _newest(lake: Lake, ds: str, commits: Mapping[str, DayCommit]) -> tuple[str, int]:
    """Day and rows of the newest catalogue up to a day; empty when there is none, or it is not of the items as they are now."""
    catalogue = lake.table("catalogue")
    day = max((day for day in catalogue.days() if day <= ds), default="")
    made = catalogue.day(day) if day else None
    return (day, made.rows) if made and made.made_from(_inputs(lake, day, commits)) else ("", 0)


def _gather(spark: SparkSession, lake: Lake, ds: str, start: str, rows: int, commits: Mapping[str, DayCommit]) -> None:
    """Make the catalogue of a day: of the one of `start` and the days of items from then on, which have so many rows."""

    def make(_: object) -> Made:
        read = _read(spark, lake, start, [day for day in commits if start <= day < ds])
        versions = item_versions(read, ds).select("item_id", F.explode("versions").alias("version")).select("item_id", "version.*")
        return Made(versions.withColumn("ds", F.lit(ds)), lambda written: _accounted(rows, written.count()))

    build_day(lake.table("catalogue"), ds, lambda: _inputs(lake, ds, commits), make)


def _accounted(came: int, left: int) -> dict[str, int]:
    return {"in": came, "out": left, "superseded": came - left}


def _read(spark: SparkSession, lake: Lake, start: str, days: Iterable[str]) -> DataFrame:
    gathered = lake.read(spark, "catalogue", [start] if start else [])
    return gathered.select(*_COLUMNS).unionByName(lake.read(spark, "items", days).select(*_COLUMNS))


def _inputs(lake: Lake, ds: str, commits: Mapping[str, DayCommit]) -> dict[str, str]:
    """What the catalogue of a day is made of: all days of items before it, whichever way they are read."""
    digests = {day: own.digest for day, own in commits.items() if day < ds}
    return {**inputs_of(lake, {}, ["jobs.catalogue"], {}), "items": fingerprint(digests)}
