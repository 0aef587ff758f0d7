"""Writes the log of a simulated recipe, and the truth beside it, as raw Parquet folders by day of arrival."""

import json
import shutil
import uuid
from pathlib import Path
from pkgutil import iter_modules

import pyarrow.dataset as pads
from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession

from feature_store import simulator
from feature_store.recipe import Recipe
from feature_store.revision import source_digest
from feature_store.simulator import log, raw
from feature_store.simulator.settings import SimulatorSettings, settings_of

LOGS = ("events", "exposures", "items", "truth", "truth_pages", "truth_items")
"""Folders written below the root; the first three are the log, the others what only an oracle knows."""

STAMP = "made_from.json"
"""File below the root that says from which settings, days and code the whole log was made."""

UNITS_A_TASK = 32
_CODE = ("jobs.simulate", *sorted(f"feature_store.simulator.{module.name}" for module in iter_modules(simulator.__path__)))


def made_from(recipe: Recipe) -> str:
    """What the log of a recipe is made from, as the stamp has it."""
    days = None if recipe.days is None else recipe.days.model_dump(mode="json")
    return json.dumps({"simulator": recipe.simulator, "days": days, "code": source_digest(*_CODE)}, sort_keys=True)


def is_current(recipe: Recipe, root: str | Path) -> bool:
    """Whether the log below a folder is whole, and what the recipe and this code would write."""
    stamp = Path(root) / STAMP
    return stamp.is_file() and stamp.read_text() == made_from(recipe)


def simulate(spark: SparkSession, recipe: Recipe, root: str | Path, partitions: int | None = None) -> dict[str, dict[str, int]]:
    """Write the whole log of a recipe's days below a local folder.

    Each of `LOGS` is written aside and then put in the place of an older one, so that a run that was killed leaves no mixture and
    a second run leaves the same rows; the stamp goes first and is written last. The rows do not depend on `partitions` (default: by
    the size of the log).

    Returns
    -------
    dict : day of arrival -> log -> rows; `truth_items`, which has no days, is left out.

    Raises
    ------
    ConfigError : the recipe has no `simulator` or `days` section, or a setting is out of range.
    """
    settings = settings_of(recipe)
    days = recipe.days
    if days is None or days.last is None:  # settings_of has refused this; the check is for the type alone
        return {}
    span = range(raw.unix_day(days.first), raw.unix_day(days.last) + 1)
    root = Path(root)
    pages = raw.pages(spark, settings, span, partitions or _tasks(spark, settings, span)).persist(StorageLevel.DISK_ONLY)
    frames = {
        "events": log.events_log(raw.events(spark, settings, span, partitions or _tasks(spark, settings, span))),
        "exposures": log.exposures_log(pages, settings),
        "items": log.items_log(raw.items(spark, settings, span)),
        "truth": log.truth_log(pages),
        "truth_pages": log.truth_pages_log(pages),
        "truth_items": log.truth_items_log(raw.truth_items(spark, settings)),
    }
    counts: dict[str, dict[str, int]] = {}
    (root / STAMP).unlink(missing_ok=True)
    try:
        for name in LOGS:
            _replace(frames[name], root / name)
            for ds, rows in _rows_by_day(root / name).items():
                counts.setdefault(ds, {})[name] = rows
    finally:
        pages.unpersist()
    (root / STAMP).write_text(made_from(recipe))
    return dict(sorted(counts.items()))


def _tasks(spark: SparkSession, settings: SimulatorSettings, span: range) -> int:
    units = -(-settings.users // raw.BLOCK) * len(span)
    return max(spark.sparkContext.defaultParallelism, -(-units // UNITS_A_TASK))


def _replace(frame: DataFrame, target: Path) -> None:
    """Write aside, then swap: readers see the old folder, none, or the new one."""
    aside = target.with_name(f"_{target.name}-{uuid.uuid4().hex}")
    writer = frame.write.option("compression", "zstd")
    (writer.partitionBy("ds") if "ds" in frame.columns else writer).parquet(str(aside))
    old = aside.with_name(aside.name + "-old")
    if target.exists():
        target.rename(old)
    aside.rename(target)
    shutil.rmtree(old, ignore_errors=True)


def _rows_by_day(folder: Path) -> dict[str, int]:
    # From the files' footers: no Spark job for a count.
    days = sorted(folder.glob("ds=*"))
    return {d.name.removeprefix("ds="): pads.dataset(d, format="parquet").count_rows() for d in days}
