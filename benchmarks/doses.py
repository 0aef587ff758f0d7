"""What dose-response benchmarks share: a recipe a dose, the tables of its log, and the plot."""

import json
import math
import time
from collections.abc import Iterable, Mapping
from datetime import date
from pathlib import Path
from types import ModuleType
from typing import Any

import matplotlib
import yaml

from feature_store.home import home, lake_root, raw_root
from feature_store.recipe import load_recipe
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs import ingest, movelines, pages, simulate, visits, vocabulary
from jobs.comparison import Apart

matplotlib.use("svg")
from matplotlib import pyplot


def write_recipe(base: Path, name: str, sections: Mapping[str, Any]) -> Path:
    """A recipe below the state folder that has some sections of its own and all others of `base`."""
    path = home() / "recipes" / f"{name}.yaml"
    content = yaml.safe_dump({"extends": str(base), "name": name, **sections}, sort_keys=False)
    if not path.is_file() or path.read_text() != content:  # another process may read it at this moment
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return path


def build(conf: Path, further: Iterable[ModuleType] = ()) -> None:
    """The log of a recipe and, day by day, its tables up to `pages`, then those of further jobs. What is there is skipped."""
    recipe, started = load_recipe(conf), time.perf_counter()
    lake, raw, further = Lake(lake_root(recipe.name)), raw_root(recipe.name), list(further)
    days = recipe.days.until(date.today()) if recipe.days else []
    if all(lake.table(name).exists() and lake.table(name).days() == days for name in ("pages", *_tables(further))):
        return
    spark = spark_session("moveline-doses")
    try:
        if not simulate.is_current(recipe, raw):
            simulate.simulate(spark, recipe, raw)
        for ds in days:
            ingest.build(spark, recipe, lake, ds, str(raw), str(conf))
            for job in (movelines, visits, vocabulary):
                job.build(spark, recipe, lake, ds)
            pages.build(spark, recipe, lake, ds, recipe_path=conf)
            for job in further:
                job.build(spark, recipe, lake, ds)
            print(f"{recipe.name} {ds}: {time.perf_counter() - started:.0f} s", flush=True)
    finally:
        spark.stop()


def _tables(jobs: Iterable[ModuleType]) -> list[str]:
    return [job.__name__.rpartition(".")[2] for job in jobs]


def recorded(strength: str, found: Mapping[float, Mapping[str, Apart]]) -> dict[str, dict[float, Apart]]:
    """Differences by name and dose: those found now (by dose and name) and those that `dose_<strength>.json` remembers.

    The file, beside this one, is brought up to date: what was found now replaces the same difference at the same dose. One without
    an interval, of a single seed, is not kept.
    """
    path = Path(__file__).with_name(f"dose_{strength}.json")
    known = json.loads(path.read_text()) if path.is_file() else {}
    for dose, rows in found.items():
        known.setdefault(f"{dose:g}", {}).update({name: [round(part, 5) for part in (own.value, own.low, own.high)]
                                                  for name, own in rows.items() if not math.isnan(own.low)})
    path.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")
    return by_name({float(dose): {name: Apart(*own, math.nan) for name, own in rows.items()} for dose, rows in known.items()})


def by_name(found: Mapping[float, Mapping[str, Apart]]) -> dict[str, dict[float, Apart]]:
    """Differences by dose and name, turned to name and dose; doses ascend."""
    lines: dict[str, dict[float, Apart]] = {}
    for dose in sorted(found):
        for name, own in found[dose].items():
            lines.setdefault(name, {})[dose] = own
    return lines


def plot(lines: Mapping[str, Mapping[float, Apart]], strength: str, metric: str, path: Path) -> None:
    """Differences by dose, a line a name, with their intervals, side by side so that none hides another."""
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for place, (name, found) in enumerate(lines.items()):
        aside = 0.012 * (place - (len(lines) - 1) / 2)
        errors = [[own.value - own.low for own in found.values()], [own.high - own.value for own in found.values()]]
        axes.errorbar([dose + aside for dose in found], [own.value for own in found.values()], yerr=errors, marker="o", capsize=3,
                      label=name)
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel=strength, ylabel=f"difference of {metric},\n95 % interval")
    axes.legend(frameon=False)
    figure.savefig(path)
