"""What comparisons of arms over seeds share: differences with their intervals, the table as Markdown, and the place in MLflow."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd

from feature_store.recipe import Recipe
from models.bootstrap import DETECTABLE
from models.gate import interval
from models.registry import Registry

_NORMAL = 1.96
_STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""97.5 % quantiles of Student's t with 1, 2, ... degrees of freedom; with more, the last is a little too wide."""


@dataclass(frozen=True)
class Apart:
    """A difference of two arms with its 95 % interval, and the smallest true one that would be found four times in five (nan below
    two seeds); all nan without a seed in common, and where the rows do not define the metric."""

    value: float
    low: float
    high: float
    detectable: float

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "undefined"
        return f"{self.value:+.4f}" if math.isnan(self.low) else interval(self.value, self.low, self.high)


def by_arm(results: Iterable[dict[str, Any]]) -> dict[str, dict[int, dict[str, Any]]]:
    """Results by arm and seed."""
    found: dict[str, dict[int, dict[str, Any]]] = {}
    for result in results:
        found.setdefault(result["arm"], {})[result["seed"]] = result
    return found


def apart(left: Mapping[int, dict[str, Any]], right: Mapping[int, dict[str, Any]], metric: str) -> Apart:
    """The mean difference of two arms (seed -> result) over the seeds that both have.

    Two errors add up: other users (the paired bootstrap of the mean difference) and other seeds (Student's t over the seeds).
    """
    seeds = sorted(set(left) & set(right))
    values = [left[s]["metrics"][f"test.{metric}"] - right[s]["metrics"][f"test.{metric}"] for s in seeds]
    mean = statistics.fmean(values) if seeds else math.nan
    if len(seeds) < 2 or math.isnan(mean):
        return Apart(mean, math.nan, math.nan, math.nan)
    users = np.mean([np.array(left[s]["draws"][metric], float) - np.array(right[s]["draws"][metric], float) for s in seeds], 0)
    of_users, of_seeds = float(np.nanstd(users, ddof=1)), statistics.stdev(values) / math.sqrt(len(seeds))
    half = math.hypot(_NORMAL * of_users, _STUDENT[min(len(seeds) - 1, len(_STUDENT)) - 1] * of_seeds)
    return Apart(mean, mean - half, mean + half, DETECTABLE * math.hypot(of_users, of_seeds))


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A table as Markdown."""
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, ["---"] * len(heads), *lines))


def keep(recipe: Recipe, run_name: str, tags: Mapping[str, str], numbers: Mapping[str, float], rows: Sequence[Mapping[str, Any]],
         files: Sequence[Path], registry: Registry | None = None) -> None:
    """Log a comparison as a run of the recipe's experiment: the finite numbers, the rows as a table, and the files.

    Parameters
    ----------
    files : the first is the table as text; that of MLflow is called like it.
    """
    registry = registry or Registry()
    mlflow.set_tracking_uri(registry.uri)
    with mlflow.start_run(experiment_id=registry.experiment(recipe.name), run_name=run_name, tags={"recipe": recipe.name, **tags}):
        mlflow.log_metrics({name: value for name, value in numbers.items() if math.isfinite(value)})
        mlflow.log_table(pd.DataFrame(rows), f"{files[0].stem}.json")
        for file in files:
            mlflow.log_artifact(str(file))
