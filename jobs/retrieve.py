"""Retrieval: the items that a registered version expects next of every user of a day, as days of the table `retrieved`.

A user's moveline is cut at the end of the day; what is chosen from are the items of the movelines of the days that are read.
"""

import shutil
import tempfile
from collections.abc import Iterator
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
from pyspark import SparkFiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import RETRIEVED
from feature_store.errors import ModelError, TableError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.tables import Lake, lenient
from feature_store.worker_rows import WorkerRows
from jobs.context import CODE, CONTEXT_COLUMNS, with_context
from jobs.day import DayResult, Made, build_day, day_start, days_until, inputs_of
from jobs.score import ship
from models.artifact import describe
from models.registry import Registry, Version
from models.retriever import Retriever

ITEMS = "candidates.parquet"
_MODULES = ("feature_store.encoding", "feature_store.vocabulary", "jobs.retrieve", "models.generator", "models.item2vec",
            "models.nif", "models.retriever", *CODE)
_MADE = pa.schema([f for f in RETRIEVED.schema if f.name in ("user_id", "cut_time", "item_id", "score")])


def retrieve(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, version: Version, registry: Registry,
             most: int) -> DayResult:
    """The best `most` items for every user of a day; skipped when movelines, visits and version did not change.

    Raises
    ------
    ModelError : the version has no vectors to compare. TableError : the day has no movelines.
    """
    movelines = lake.table("movelines").day(ds)
    if movelines is None or not movelines.rows:
        raise TableError(f"movelines has no rows of {ds}; build it with `moveline daily --ds {ds}`")
    days = days_until(ds, recipe.movelines.days + 1)
    config = {"version": version.uri, "run": version.run_id, "most": most, "movelines": recipe.movelines.model_dump()}

    def make(_: object) -> Made:
        archive = _shipped(spark, lake, days, version, registry)
        cuts = lake.read(spark, "movelines", [ds]).select("user_id").distinct().withColumn(
            "cut_time", F.lit(day_start(ds) + timedelta(1)))
        walks = with_context(cuts, lake.read(spark, "movelines", days), lake.read(spark, "visits", days), recipe.movelines)
        found = retrieved(walks.frame, archive, most)
        return Made(found, lambda back: {"in": movelines.rows, "out": back.count()})

    inputs = partial(inputs_of, lake, {"movelines": days, "visits": days}, _MODULES, config)
    return build_day(lake.table("retrieved"), ds, inputs, make, model=version.name, model_version=str(version.version))


def _shipped(spark: SparkSession, lake: Lake, days: list[str], version: Version, registry: Registry) -> str:
    """Send the artifact and the items to choose from to all executors; the name of the archive there."""
    folder = registry.folder(version)
    if describe(folder)["name"] not in ("nif", "item2vec"):
        raise ModelError(f"{version.uri} has no vectors of users and items to compare; nif and item2vec have")
    with tempfile.TemporaryDirectory(prefix="moveline-retrieve-") as aside:
        whole = Path(shutil.copytree(folder, Path(aside) / "artifact"))
        pq.write_table(candidates(lake.read(spark, "movelines", days)).toArrow(), whole / ITEMS)
        return ship(spark, whole, f"{version.name}-{version.version}-retrieve")


def candidates(movelines: DataFrame) -> DataFrame:
    """Distinct items of some movelines, each with the category it had last: item_id, category_id."""
    tokens = movelines.select(F.explode(F.arrays_zip("item_id", "category_id", "event_time")).alias("t")).select("t.*")
    newest = F.max_by("category_id", F.struct("event_time", "category_id")).alias("category_id")
    return tokens.where("item_id is not null").groupBy("item_id").agg(newest)


def retrieved(walks: DataFrame, archive: str, most: int) -> WorkerRows:
    """user_id, cut_time and the lists item_id and score of each row of walks, in the same order."""
    work = partial(_retrieved, archive=archive, most=most)
    return WorkerRows(walks.select("user_id", "cut_time", *CONTEXT_COLUMNS), work, _MADE)


def _retrieved(batches: Iterator[pa.RecordBatch], archive: str, most: int) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers."""
    retriever = _retriever(SparkFiles.get(archive))
    for batch in batches:
        rows = pa.Table.from_batches([batch]).combine_chunks()
        if len(rows):
            items, scores = retriever.top(rows, most)
            lists = pa.array(items, pa.list_(pa.string())), pa.array(scores, pa.list_(pa.float64()))
            made = [rows["user_id"], rows["cut_time"], *lists]
            yield pa.Table.from_arrays(made, _MADE.names).cast(lenient(_MADE)).combine_chunks().to_batches()[0]


@lru_cache(maxsize=1)  # a worker outlives its tasks
def _retriever(folder: str) -> Retriever:
    return Retriever(folder, pq.read_table(Path(folder) / ITEMS))


def run_retrieve(recipe: Recipe, ds: str | None, version: Version, registry: Registry, most: int) -> DayResult:
    """`retrieve` in a Spark session of its own; without a day, the newest of movelines."""
    from feature_store.session import spark_session

    lake = Lake(lake_root(recipe.name))
    built = lake.table("movelines").days()
    if not (ds or built):
        raise TableError(f"{recipe.name} has no movelines yet; build them with `moveline daily`")
    spark = spark_session(f"moveline retrieve {recipe.name}")
    try:
        return retrieve(spark, recipe, lake, ds or built[-1], version, registry, most)
    finally:
        spark.stop()
