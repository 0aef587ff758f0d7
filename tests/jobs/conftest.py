"""Real logs, each ingested once for all tests that look at its tables."""

from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from feature_store.recipe import Recipe, load_recipe
from feature_store.tables import Lake
from jobs import ingest
from jobs.day import DayResult

CONF = Path(__file__).resolve().parents[2] / "conf"


@dataclass(frozen=True)
class Ingested:
    """A lake with the raw tables of every day that has pages, and what ingest said of them."""

    recipe: Recipe
    lake: Lake
    days: list[str]
    results: list[DayResult]


def ingested(spark: SparkSession, name: str, data: Path, folder: Path, days: list[str]) -> Ingested:
    path = str(CONF / f"{name}.yaml")
    recipe, lake = load_recipe(path), Lake(str(folder / "lake"))
    return Ingested(recipe, lake, days, [r for ds in days for r in ingest.build(spark, recipe, lake, ds, str(data / name), path)])


@pytest.fixture(scope="session")
def trivago(spark: SparkSession, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    return ingested(spark, "trivago", real_data, tmp_path_factory.mktemp("trivago"), ["2018-11-07", "2018-11-08"])


@pytest.fixture(scope="session")
def ebnerd(spark: SparkSession, real_data: Path, tmp_path_factory: pytest.TempPathFactory) -> Ingested:
    # All days with pages.
    days = [*(f"2023-02-{d}" for d in range(23, 29)), "2023-03-01", "2023-03-02"]
    return ingested(spark, "ebnerd", real_data, tmp_path_factory.mktemp("ebnerd"), days)
