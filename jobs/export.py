"""Export of a trained model: one folder that a service reads, and the item side as tables versioned with the model.

A version gives its unsharded module, the same with int8 tables, the tables `item_side` and `code_books`, and an index of the item
vectors. A run that was not registered gives its module alone, from a checkpoint of any number of ranks.
"""

import json
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from pyspark import SparkFiles
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import CODE_BOOKS, ITEM_SIDE
from feature_store.encoded_set import file_digest
from feature_store.errors import ModelError, TableError
from feature_store.home import home
from feature_store.revision import source_digest
from feature_store.session import spark_schema
from feature_store.tables import Lake, Table, lenient
from feature_store.vocabulary import Vocabulary
from jobs.day import Made, build_day, day_start
from jobs.evaluate import save
from jobs.score import of_version, ship
from jobs.train import Spec
from models.artifact import VOCABULARY, WEIGHTS, Weights, load_artifact, save_artifact
from models.base import Model
from models.catalog import model_class
from models.checkpoint import unsharded
from models.generator import copy_into
from models.item2vec import Item2vec
from models.nearest import Nearest
from models.quantised import quantise_tables, save_quantised, table_bytes
from models.registry import Registry, Version
from models.tarq import Tarq
from models.towers import Towers

MODULE, ABOUT = "model", "export.json"
_CODE = ("jobs.export", "models.item2vec", "models.quantiser", "models.tarq", "models.towers")
_ITEM, _BOOK = (pa.schema([f for f in contract.schema if f.name not in contract.partition]) for contract in (ITEM_SIDE, CODE_BOOKS))


@dataclass(frozen=True)
class Exported:
    """What was exported.

    Attributes
    ----------
    folder : holds `model/` (an artifact, and its weights with int8 tables), and for item vectors their index. items : rows of the
        table `item_side`, 0 for a model without. table_bytes, int8_bytes : of the embedding tables.
    """

    folder: Path
    items: int
    table_bytes: int
    int8_bytes: int


def export_version(spark: SparkSession, lake: Lake, version: Version, registry: Registry) -> Exported:
    """Export a registered version. Tables whose inputs and version did not change are left as they are.

    Raises
    ------
    TableError : there is no vocabulary of items. ModelError : the artifact is not complete.
    """
    artifact = registry.folder(version)

    def fill(folder: Path, model: Model) -> int:
        return _item_side(spark, lake, version, artifact, model, folder) if isinstance(model, Towers | Item2vec) else 0

    about = {"version": version.uri, "run": version.run_id, "day": version.tags.get("day", "")}
    return _export(f"{version.name}-{version.version}", about, lambda to: shutil.copytree(artifact, to), fill)


def export_run(run: str | Path, name: str) -> Exported:
    """Export what a training run has reached, from its newest checkpoint; it need not be finished.

    Parameters
    ----------
    run : folder of the run's model, with its spec.json. name : of the folder that is made.

    Raises
    ------
    ModelError : the folder holds no run, or there is no checkpoint of it.
    """
    path = Path(run) / "spec.json"
    if not path.is_file():
        raise ModelError(f"{run}: no training run here (spec.json is missing); `moveline train` says where it put one")
    spec = Spec.model_validate_json(path.read_text())

    def write(to: Path) -> None:
        model = model_class(spec.model).build(spec.settings, spec.rows)
        if spec.generator:
            copy_into(to, spec.generator)
        save_artifact(to, model, Weights(unsharded(spec.checkpoints, model), {}), spec.vocabulary)

    return _export(name, {"run": str(run), "checkpoints": spec.checkpoints}, write, lambda folder, model: 0)


def _export(name: str, about: Mapping[str, Any], write: Callable[[Path], object], fill: Callable[[Path, Model], int]) -> Exported:
    """Make the folder of an export aside, and put it in its place when it is complete."""
    final = home() / "exports" / name
    aside = final.with_name(f".{name}-{uuid.uuid4().hex}")
    aside.mkdir(parents=True)
    try:
        write(aside / MODULE)
        model = load_artifact(aside / MODULE)
        items, whole = fill(aside, model), table_bytes(model)
        small = quantise_tables(model)
        save_quantised(small, aside / MODULE)
        made = Exported(final, items, whole, table_bytes(small))
        digests = {str(path.relative_to(aside)): file_digest(path) for path in sorted(aside.rglob("*")) if path.is_file()}
        save({**about, "items": items, "table_bytes": whole, "int8_bytes": made.int8_bytes, "files": digests}, aside / ABOUT)
        shutil.rmtree(final, ignore_errors=True)
        aside.rename(final)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return made


def _item_side(spark: SparkSession, lake: Lake, version: Version, artifact: Path, model: Model, folder: Path) -> int:
    """Both tables of a version and the index of its item vectors; how many items."""
    words = lake.table("vocabulary")
    days = words.days()
    if not days:
        raise TableError(f"{lake.root} has no vocabulary yet; build it with `moveline daily`")
    ds = version.tags.get("day", days[-1])
    key = {"model": version.name, "model_version": str(version.version)}

    def inputs() -> dict[str, str]:
        read = {name: json.dumps(lake.table(name).digests(d for d in lake.table(name).days() if d <= ds))
                for name in ("vocabulary", "items") if lake.table(name).exists()}
        return {"version": version.uri, "run": version.run_id, "weights": file_digest(artifact / WEIGHTS), **read,
                "vocabulary of the version": Vocabulary.load(artifact / VOCABULARY).digest, "code": source_digest(*_CODE)}

    def sides(_: object) -> Made:
        known = catalogue(spark, lake, ds)
        archive = ship(spark, artifact, f"{version.name}-{version.version}")
        rows = known.mapInArrow(partial(_sides, archive=archive), spark_schema(_ITEM))
        return Made(rows, lambda back: {"in": known.count(), "out": back.count()})

    build_day(lake.table("item_side"), ds, inputs, sides, **key)
    if isinstance(model, Tarq):
        rows = spark.createDataFrame(_books(model), spark_schema(_BOOK))
        made = Made(rows, lambda back: {"in": model.config.levels * model.config.codes, "out": back.count()})
        build_day(lake.table("code_books"), ds, inputs, lambda _: made, **key)
    found = item_side(lake.table("item_side"), ds, version)
    vectors = np.stack(found["vector"].to_numpy())
    Nearest.of(found["item_id"].to_numpy(), vectors).save(folder)
    return len(found)


def catalogue(spark: SparkSession, lake: Lake, ds: str) -> DataFrame:
    """Every item known by the end of a day: item_id, and its category as of then, null when none is known."""
    until = F.lit(day_start(ds) + timedelta(1))
    words = lake.read(spark, "vocabulary").where((F.col("field") == "item") & (F.col("ds") <= ds))
    latest = F.max_by("category_id", F.struct("valid_from", "available_time")).alias("category_id")
    known = lake.read(spark, "items").where((F.col("available_time") < until) & (F.col("valid_from") < until))
    return words.select(F.col("id").alias("item_id")).join(known.groupBy("item_id").agg(latest), "item_id", "left")


def item_side(table: Table, ds: str, version: Version) -> pa.Table:
    """The item side of a version, without Spark: item_id, codes, vector."""
    found = table.read_arrow([ds], ["item_id", "codes", "vector", "model", "model_version"])
    return found.filter(of_version(found, version)).drop_columns(["model", "model_version"])


def _sides(batches: Iterator[pa.RecordBatch], archive: str) -> Iterator[pa.RecordBatch]:
    """Runs on Spark's workers: item_id, category_id -> rows of `item_side`."""
    folder = SparkFiles.get(archive)
    model, words = _model(folder), _words(folder)
    for batch in batches:
        ids = [batch.column(name) for name in ("item_id", "category_id")]
        codes, vectors = sides(model, words, *ids)
        yield pa.RecordBatch.from_arrays([*ids, _lists(codes.astype(np.int32)), _lists(vectors)], schema=lenient(_ITEM))


@torch.no_grad()
def sides(model: Model, words: Vocabulary, item: pa.Array, category: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """[n, L] codes (L = 0 without code books) and [n, d] vectors of items by raw ids."""
    places = [torch.from_numpy(words.encode(field, ids)) for field, ids in (("item", item), ("category", category))]
    codes = model.codes(*places).numpy() if isinstance(model, Tarq) else np.zeros((len(item), 0), np.int64)
    if not isinstance(model, Towers | Item2vec):
        raise ModelError(f"model {model.name} has no vectors of items")
    return codes, model.items(*places).numpy()


def _lists(rows: np.ndarray) -> pa.Array:
    """[n, k] as a list a row."""
    offsets = np.arange(len(rows) + 1, dtype=np.int32) * rows.shape[1]
    return pa.ListArray.from_arrays(offsets, pa.array(rows.ravel()))


def _books(model: Tarq) -> list[tuple[int, int, list[float]]]:
    return [(level, code, vector) for level, book in enumerate(model.quantiser.books.tolist()) for code, vector in enumerate(book)]


@lru_cache(maxsize=1)  # a worker outlives its tasks
def _model(folder: str) -> Model:
    return load_artifact(folder)


@lru_cache(maxsize=1)
def _words(folder: str) -> Vocabulary:
    return Vocabulary.load(Path(folder) / VOCABULARY)


def run_export(lake: Lake, version: Version, registry: Registry) -> Exported:
    """`export_version` in a Spark session of its own."""
    from feature_store.session import spark_session

    spark = spark_session(f"moveline export {version.name}")
    try:
        return export_version(spark, lake, version, registry)
    finally:
        spark.stop()
