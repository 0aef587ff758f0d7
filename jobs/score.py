"""Batch scoring: every page of a day, scored by a registered version, as days of the table `scores`.

Pages come and go as Arrow batches; a Spark worker loads the model once. Artifact, vocabulary and generator travel as one archive.
"""

import atexit
import shutil
import tarfile
import tempfile
import uuid
from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyspark import SparkFiles
from pyspark.sql import DataFrame, SparkSession

from feature_store.contracts import SCORES
from feature_store.errors import ModelError, TableError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.revision import source_digest
from feature_store.tables import Lake, Table, lenient
from feature_store.worker_rows import WorkerRows
from jobs.day import DayResult, Made, build_day
from models.artifact import describe
from models.ranker import INPUT, Ranker
from models.registry import Registry, Version

PAGES_AT_ONCE = 2_048
"""Pages of an Arrow batch: a page is wide, and encoding it makes it wider."""

_BATCH = "spark.sql.execution.arrow.maxRecordsPerBatch"
_CODE = ("feature_store.encoding", "feature_store.vocabulary", "jobs.score", "models.generator", "models.ranker", "models.scoring")
_COPIED = ("page_id", "user_id", "cut_time", "scenario", "item_id", "position")
_MADE = pa.schema([f for f in SCORES.schema if f.name in (*_COPIED, "score")])


def score_days(spark: SparkSession, recipe: Recipe, lake: Lake, days: list[str], version: Version,
               registry: Registry) -> Iterator[DayResult]:
    """Score the pages of some days with a registered version. A day whose pages and version did not change is skipped.

    Raises
    ------
    ModelError : the version ranks no pages, or a score is not finite. TableError : a day has no pages.
    """
    folder = registry.folder(version)
    reads = describe(folder)["reads"]
    if reads != "pages":
        raise ModelError(f"{version.uri} reads {reads}: it ranks no pages")
    archive = ship(spark, folder, f"{version.name}-{version.version}")
    for ds in days:
        yield score_day(spark, lake, ds, version, archive)


def score_day(spark: SparkSession, lake: Lake, ds: str, version: Version, archive: str) -> DayResult:
    """One day of `score_days`. archive : name that `ship` gave the model."""
    pages = lake.table("pages")
    found = pages.day(ds)
    if found is None:
        raise TableError(f"pages has no day {ds}; build it with `moveline daily --ds {ds}`")

    def inputs() -> dict[str, str]:
        digest = pages.digests([ds])[ds]
        return {f"pages/{ds}": digest, "version": version.uri, "run": version.run_id, "code": source_digest(*_CODE)}

    def make(_: object) -> Made:
        rows = scored(pages.read(spark, [ds]), archive)
        # Pages lie by user already.
        return Made(rows, lambda back: {"in": found.rows, "out": back.count()})

    before = spark.conf.get(_BATCH)
    spark.conf.set(_BATCH, str(PAGES_AT_ONCE))
    try:
        return build_day(lake.table("scores"), ds, inputs, make, model=version.name, model_version=str(version.version))
    finally:
        spark.conf.set(_BATCH, str(before))


def ship(spark: SparkSession, folder: Path, name: str) -> str:
    """Send an artifact to all executors as one archive; its name there."""
    aside = Path(tempfile.mkdtemp(prefix="moveline-model-"))
    atexit.register(shutil.rmtree, aside, ignore_errors=True)  # an executor that starts later asks for it as well
    with tarfile.open(aside / f"{name}.tar", "w") as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, path.name)
    place = f"{name}-{uuid.uuid4().hex}"  # Spark refuses a second archive of the same name
    spark.sparkContext.addArchive(f"{aside / name}.tar#{place}")
    return place


def scored(pages: DataFrame, archive: str) -> WorkerRows:
    """Rows of the table `pages` -> page_id, user_id, cut_time, scenario, item_id, position and score of each, in the same order."""
    return WorkerRows(pages.select(*INPUT), partial(_scored, archive=archive), _MADE)


def _scored(batches: Iterator[pa.RecordBatch], archive: str) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers."""
    ranker = _ranker(SparkFiles.get(archive))
    for batch in batches:
        pages = pa.Table.from_batches([batch]).combine_chunks()
        if len(pages):
            yield _with_scores(pages, ranker.scores(ranker.encoded(pages)))


def _with_scores(pages: pa.Table, scores: np.ndarray) -> pa.RecordBatch:
    own = pages.select(_COPIED).to_batches()[0]
    items = own.column("item_id")
    offsets = pa.array(np.asarray(items.offsets) - items.offsets[0].as_py(), pa.int32())
    columns = [own.column(name) for name in _COPIED] + [pa.ListArray.from_arrays(offsets, pa.array(scores, pa.float64()))]
    made = pa.Table.from_arrays(columns, [*_COPIED, "score"]).select(_MADE.names)
    return made.cast(lenient(_MADE)).to_batches()[0]


@lru_cache(maxsize=1)  # a worker outlives its tasks
def _ranker(folder: str) -> Ranker:
    return Ranker(folder)


def scores_of(table: Table, ds: str, version: Version) -> pa.Table:
    """The scores of one day by one version, without Spark: page_id, item_id, position, score."""
    wanted = ["page_id", "item_id", "position", "score", "model", "model_version"]
    found = table.read_arrow([ds], wanted)
    return found.filter(of_version(found, version)).drop_columns(["model", "model_version"])


def of_version(found: pa.Table, version: Version) -> pa.Array:
    """[n] which rows with the columns model and model_version are of this version."""
    import pyarrow.compute as pc

    return pc.and_(pc.equal(found["model"], version.name), pc.equal(found["model_version"], str(version.version)))


def run_score(recipe: Recipe, days: list[str], version: Version, registry: Registry) -> Iterator[DayResult]:
    """`score_days` in a Spark session of its own; without days, the newest day of pages."""
    from feature_store.session import spark_session

    lake = Lake(lake_root(recipe.name))
    built = lake.table("pages").days()
    if not (days or built):
        raise TableError(f"{recipe.name} has no pages yet; build them with `moveline daily`")
    spark = spark_session(f"moveline score {recipe.name}")
    try:
        yield from score_days(spark, recipe, lake, days or built[-1:], version, registry)
    finally:
        spark.stop()
