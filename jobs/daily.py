"""A day's tables in one Spark application: for a small machine, where starting Spark costs more than the work.

Each table is still committed, skipped and retried on its own, as when each job is an application of its own.
"""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs import flows, ingest, movelines, pages, pairs, visits, vocabulary
from jobs.day import DayResult, days_until

NO_EXPOSURES = "no exposures in this log: no pages, pairs or ranking models"

Build = Callable[[SparkSession, Recipe, Lake, str], DayResult | list[DayResult]]


def run_day(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, data: str | Path,
            recipe_path: str | Path) -> Iterator[DayResult]:
    """Build every table of a day, in the order in which they need each other; each is told of as soon as it is done.

    Days before it for which rows may still arrive (`late_days` of the inputs) and that were built before are brought up to date
    first: what did not change is skipped, and only what was built again is in the answer, with what it was built again for
    (`DayResult.because`). Late behaviour reaches movelines, visits and the futures of flows, late labels reach pages and pairs;
    what a row knows of its user is cut by when it was available, so that it stays as it was.

    Parameters
    ----------
    data : folder that relative input paths start from. recipe_path : the recipe's file, for errors.

    Yields
    ------
    One result a table, in the order of building. A log without exposures has a skipped `pages` with a note and no pairs.
    """
    *earlier, _ = with_late_days(recipe, lake, ds)
    for day in earlier:
        for result in _tables(spark, recipe, lake, day, data, recipe_path):
            if result.status != "skipped":
                yield result
    yield from _tables(spark, recipe, lake, ds, data, recipe_path)


def with_late_days(recipe: Recipe, lake: Lake, ds: str) -> list[str]:
    """The day, after those before it that were built and for which rows may still have arrived with it, ascending."""
    late = max((i.late_days for i in recipe.source.inputs.values() if "{ds}" in i.path), default=0)
    built = set(lake.table("events").days())
    return [d for d in days_until(ds, late + 1) if d in built or d == ds]


def _tables(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, data: str | Path,
            recipe_path: str | Path) -> Iterator[DayResult]:
    yield from ingest.build(spark, recipe, lake, ds, str(data), str(recipe_path))
    made_pages = partial(pages.build, recipe_path=recipe_path)
    ranked: tuple[Build, ...] = (made_pages, pairs.build) if recipe.has_exposures else (_no_pages,)
    steps: tuple[Build, ...] = (movelines.build, visits.build, vocabulary.build, *ranked, flows.build)
    for build in steps:
        made = build(spark, recipe, lake, ds)
        yield from made if isinstance(made, list) else [made]


def _no_pages(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    return DayResult("pages", ds, "skipped", 0, note=NO_EXPOSURES)
