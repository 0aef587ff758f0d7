"""A day's tables in one Spark application: for a small machine, where starting Spark costs more than the work.

Each table is still committed, skipped and retried on its own, as when each job is an application of its own.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

from pyspark.sql import SparkSession

from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs import flows, ingest, movelines, pages, pairs, visits, vocabulary
from jobs.day import DayResult, days_until

NO_EXPOSURES = "no exposures in this log: no pages, pairs or ranking models"

Build = Callable[[SparkSession, Recipe, Lake, str], DayResult | list[DayResult]]


def run_day(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, data: str | Path, recipe_path: str | Path) -> list[DayResult]:
    """Build every table of a day, in the order in which they need each other.

    Days before it for which rows may still arrive (`late_days` of the inputs) and that were built before are brought up to date
    first: what did not change is skipped, and only what was built again is in the answer. Late behaviour reaches movelines, visits
    and the futures of flows, late labels reach pages and pairs; what a row knows of its user is cut by when it was available, so
    that it stays as it was.

    Parameters
    ----------
    data : folder that relative input paths start from. recipe_path : the recipe's file, for errors.

    Returns
    -------
    One result a table, in the order of building. A log without exposures has a skipped `pages` with a note and no pairs.
    """
    events = lake.table("events")
    earlier = [d for d in days_until(ds, late_days(recipe) + 1)[:-1] if events.day(d)]
    late = [r for d in earlier for r in _tables(spark, recipe, lake, d, data, recipe_path) if r.status != "skipped"]
    renewed = [replace(r, note="; ".join(filter(None, ["late rows", r.note]))) for r in late]
    return [*renewed, *_tables(spark, recipe, lake, ds, data, recipe_path)]


def late_days(recipe: Recipe) -> int:
    """For how many days after a day its rows may still arrive."""
    return max((i.late_days for i in recipe.source.inputs.values() if "{ds}" in i.path), default=0)


def _tables(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, data: str | Path, recipe_path: str | Path) -> list[DayResult]:
    results = ingest.build(spark, recipe, lake, ds, str(data), str(recipe_path))
    made_pages = partial(pages.build, recipe_path=recipe_path)
    ranked: tuple[Build, ...] = (made_pages, pairs.build) if recipe.has_exposures else (_no_pages,)
    steps: tuple[Build, ...] = (movelines.build, visits.build, vocabulary.build, *ranked, flows.build)
    for build in steps:
        made = build(spark, recipe, lake, ds)
        results += made if isinstance(made, list) else [made]
    return results


def _no_pages(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str) -> DayResult:
    return DayResult("pages", ds, "skipped", 0, note=NO_EXPOSURES)
