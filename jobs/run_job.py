"""Run one job for some days: what `moveline JOB` and `spark-submit jobs/main.py JOB` both do."""

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, date, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from feature_store.errors import ConfigError, InputError
from feature_store.home import lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from jobs.snapshot import check_models

if TYPE_CHECKING:
    from jobs.day import DayResult

TABLE_JOBS = ("ingest", "movelines", "visits", "vocabulary", "pages", "pairs", "flows", "daily")
"""Jobs that build days of tables, in the order in which a day needs them; `daily` is all of them in one application."""
_NEED_EXPOSURES = ("pages", "pairs")


def data_folder(recipe: Recipe, data: str | None) -> str:
    """Folder (absolute, or a Hadoop address such as s3a://) that the relative paths of a recipe's inputs are resolved against.

    Raises
    ------
    InputError : the recipe is for a real log and no folder was given, or it does not exist.
    """
    if not data:
        if recipe.simulator is None:
            raise InputError(f"recipe {recipe.name} reads a real log: say where it lies with --data FOLDER (make: DATA=FOLDER)")
        return str(raw_root(recipe.name))
    if "://" in data:
        return data
    if not Path(data).is_dir():
        raise InputError(f"--data {data}: no such folder")
    return str(Path(data).absolute())


def days_asked(recipe: Recipe, ds: str | None) -> list[str]:
    """Days named by `--ds`: one day, `FIRST..LAST`, or (None) every day of the recipe.

    Raises
    ------
    ConfigError : not a day, a day to come, or no day is given and the recipe names none.
    """
    if not ds:
        if recipe.days is None:
            raise ConfigError(
                f"recipe {recipe.name} has no `days`: say which day to build, --ds 2026-05-01 or --ds 2026-05-01..2026-05-03"
            )
        return recipe.days.until(datetime.now(UTC).date())
    first, _, last = ds.partition("..")
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last or first)
    except ValueError as error:
        raise ConfigError(f"--ds {ds}: {error}; a day is written 2026-05-01, several 2026-05-01..2026-05-03") from error
    if end < start:
        raise ConfigError(f"--ds {ds}: the last day lies before the first")
    today = datetime.now(UTC).date()
    if end > today and (recipe.days is None or recipe.days.last is None):
        raise ConfigError(f"--ds {ds}: {end} lies in the future, today is {today} (UTC); a log of other times names its `days`")
    return [str(date.fromordinal(n)) for n in range(start.toordinal(), end.toordinal() + 1)]


def run_tables(job: str, conf: Path, data: str | None, ds: str | None, say: Callable[[str], None]) -> list["DayResult"]:
    """Build the table(s) of one job for some days, in one Spark session; one line is said for each day of each table."""
    from feature_store.contracts import CONTRACTS
    from feature_store.session import spark_session
    from feature_store.tables import Lake

    recipe = load_recipe(conf)
    check_models(recipe, conf)
    days = days_asked(recipe, ds)
    if job in _NEED_EXPOSURES and not recipe.has_exposures:
        say(f"{job}: {recipe.name} logs events only (no exposures), nothing to build")
        return []
    folder = data_folder(recipe, data) if job in ("ingest", "daily") else None
    lake = Lake(lake_root(recipe.name))
    spark = spark_session(f"moveline {job} {recipe.name}")
    results: list[DayResult] = []
    try:
        for day in days:
            for result in _built(job, spark, recipe, lake, day, folder, conf):
                results.append(result)
                say(line(result))
        _clean(lake, CONTRACTS if job == "daily" else {"rejects", *(r.table for r in results)}, say)
    finally:
        spark.stop()
    return results


def _clean(lake: Any, names: Iterable[str], say: Callable[[str], None]) -> None:
    removed = [path for name in names for path in lake.table(name).clean_orphans()]
    if removed:
        say(f"deleted {len(removed)} files that runs which were cut short had left")


def _built(job: str, spark: Any, recipe: Recipe, lake: Any, day: str, folder: str | None, conf: Path) -> Iterator["DayResult"]:
    from jobs.daily import with_late_days

    module = import_module(f"jobs.{job}")
    if job == "daily":  # which looks after the days before it by itself: each with all of its tables
        yield from module.run_day(spark, recipe, lake, day, folder, conf)
        return
    more = {"ingest": (folder, conf), "pages": (conf,)}.get(job, ())
    for due in with_late_days(recipe, lake, day):
        found = module.build(spark, recipe, lake, due, *more)
        yield from (r for r in (found if isinstance(found, list) else [found]) if due == day or r.status != "skipped")


def line(result: "DayResult") -> str:
    """One day of one table in one line."""
    counts = ", ".join(f"{name} {n:,}" for name, n in sorted(result.counts.items()) if n and name not in ("in", "out"))
    came = f" of {result.counts['in']:,} read" if "in" in result.counts else ""
    parts = [
        f"{result.ds} {result.table:<12} {result.status:<9} {result.rows:>9,} rows{came} {result.seconds:6.1f} s",
        counts,
        f"because of {result.because}" if result.because else "",
        result.note,
    ]
    return "  ".join(p for p in parts if p)


def run_simulate(conf: Path, say: Callable[[str], None]) -> Path:
    """Write the simulated log of a recipe; its folder."""
    recipe = load_recipe(conf)
    if recipe.simulator is None:
        raise ConfigError(f"{conf}: has no `simulator` section; conf/simulated.yaml has one")
    from feature_store.session import spark_session
    from jobs.simulate import simulate

    root = raw_root(recipe.name)
    spark = spark_session(f"moveline simulate {recipe.name}")
    try:
        simulate(spark, recipe, root)
    finally:
        spark.stop()
    say(f"wrote the simulated log of {recipe.name} below {os.path.relpath(root)}")
    return root
