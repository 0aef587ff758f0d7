"""Upkeep on a real lake and a real registry: what a model was trained on can still be read, what nobody names is gone."""

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from feature_store.home import cache_root, lake_root
from feature_store.recipe import Recipe
from feature_store.tables import Lake, Table
from jobs.upkeep import compact, upkeep
from models.registry import Registry
from tests.jobs.naive import DAY, event, frame
from tests.jobs.test_gate import home_at

OTHER = "2026-01-06"
SOURCE = {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}]}
RECIPE = Recipe.model_validate({"name": "shop", "source": SOURCE, "upkeep": {"version_days": 0, "checkpoint_days": 1}})


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with home_at(tmp_path) as folder:
        yield folder


def write(spark: SparkSession, table: Table, users: int, ds: str = DAY, files: int = 1) -> int:
    """Events of some users; the version of the table that has them."""
    rows = [event(f"u{n}", 10 * n, n, ds=ds) for n in range(users)]
    made = frame(spark, "events", rows).repartition(files, "user_id").sortWithinPartitions(*table.contract.sort)
    return table.begin(ds).commit(made, counts={"in": users, "out": users}, inputs={"users": str(users)}, arranged=True).version


def ids(spark: SparkSession, table: Table, version: int | None = None) -> int:
    return table.read(spark, [DAY], version).select("event_id").distinct().count()


def test_a_version_that_a_registered_model_names_stays_readable_and_one_that_nobody_names_goes(spark: SparkSession) -> None:
    table = Lake(lake_root("shop")).table("events")
    named, unnamed, newest = (write(spark, table, users) for users in (2, 3, 4))
    registry = Registry()
    registry.client.create_registered_model("shop-din")
    lineage = {"events": {"id": str(table.open().metadata().id), "version": named}, "gone": {"id": "another", "version": unnamed}}
    registry.client.create_model_version("shop-din", "file:///nowhere", tags={"tables": json.dumps(lineage)})
    done = upkeep(spark, RECIPE, Lake(lake_root("shop")), registry)
    assert (done.vacuumed, done.kept) == (1, 1)
    assert ids(spark, table, named) == 2 and ids(spark, table) == ids(spark, table, newest) == 4
    assert not any(Path(file).is_file() for file in table.files([DAY], unnamed))
    again = upkeep(spark, RECIPE, Lake(lake_root("shop")), registry)
    assert again.vacuumed == 0 and ids(spark, table, named) == 2

    registry.client.delete_registered_model("shop-din")
    assert upkeep(spark, RECIPE, Lake(lake_root("shop")), registry).vacuumed == 1
    assert not any(Path(file).is_file() for file in table.files([DAY], named)) and ids(spark, table) == 4


def test_a_version_stays_for_the_days_of_the_recipe(spark: SparkSession) -> None:
    table = Lake(lake_root("shop")).table("events")
    first = write(spark, table, 2)
    write(spark, table, 3)
    kept = RECIPE.model_copy(update={"upkeep": RECIPE.upkeep.model_copy(update={"version_days": 7})})
    assert upkeep(spark, kept, Lake(lake_root("shop"))).vacuumed == 0 and ids(spark, table, first) == 2


def test_small_files_are_brought_together_and_nothing_is_built_again_for_it(spark: SparkSession) -> None:
    table = Lake(lake_root("shop")).table("events")
    write(spark, table, 40, files=4)
    write(spark, table, 5, OTHER)
    before = table.day(DAY)
    assert before is not None and len(table.files([DAY])) == 4
    assert compact(spark, table, 32) == 1 and compact(spark, table, 32) == 0
    after, (file,) = table.day(DAY), table.files([DAY])
    assert after is not None and after.version == before.version + 2  # that of the other day lies between
    assert (after.digest, after.fingerprint, after.counts, after.rows) == (before.digest, before.fingerprint, before.counts, 40)
    assert after.made_from({"users": "40"})
    rows = pq.read_table(file, columns=["user_id", "event_time"]).to_pylist()
    assert rows == sorted(rows, key=lambda r: (r["user_id"], r["event_time"])) and len(rows) == 40


def test_training_runs_that_were_given_up_go_and_younger_ones_stay(spark: SparkSession, home: Path) -> None:
    runs = {name: cache_root("shop") / name for name in ("checkpoints/old", "checkpoints/young", "runs/old")}
    for name, folder in runs.items():
        (folder / "step-0000000001").mkdir(parents=True)
        if name.endswith("old"):
            for path in (folder, folder / "step-0000000001"):
                os.utime(path, (time.time() - 2 * 86_400,) * 2)
    assert upkeep(spark, RECIPE, Lake(lake_root("shop"))).expired == 2
    assert [name for name, folder in runs.items() if folder.is_dir()] == ["checkpoints/young"]
