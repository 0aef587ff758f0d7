"""Retrieval by a registered version: real MLflow, real Spark; the naive way is the served model and a loop."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from feature_store.errors import ModelError, TableError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs import movelines, visits
from jobs.context import with_context
from jobs.retrieve import retrieve
from models.artifact import load_artifact
from models.generator import Generator
from models.registry import Candidate, Registry, Version, load
from models.serving import FLOW_COLUMNS, serving_pages
from tests.jobs.naive import event, frame
from tests.models.generators import generator
from tests.models.registered import IDS, artifact, example, raw_pages, vocabulary

DAY, MOST = "2026-01-05", 7
SOURCE = {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}]}
RECIPE = Recipe.model_validate({"name": "small", "source": SOURCE, "vocabulary_buckets": 4, "models": {"nif": {}, "item2vec": {}}})


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """Twelve users with walks of one to twelve items, and one who did not touch any."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(tmp_path_factory.mktemp("retrieve")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MOVELINE_LAKE", raising=False)
        rows = [event(f"u{user}", 60 * n, n, event_id=f"{user}-{n}", item_id="new" if n == 3 else f"i{(7 * user + 3 * n) % 30}",
                      category_id=f"c{1 + (user + n) % 2}", action="click") for user in range(12) for n in range(user + 1)]
        rows.append(event("idle", 30, event_id="idle"))
        found = Lake(lake_root("small"))
        found.table("events").begin(DAY).commit(frame(spark, "events", rows), counts={}, inputs={})
        for job in (movelines, visits):
            job.build(spark, RECIPE, found, DAY)
        yield found


def version(lake: Lake, name: str, folds: int = 1, repeat: float | None = None) -> Version:
    root, registry = Path(lake.root).parent / "made" / f"{name}{folds}{repeat}", Registry()
    folder = generator(root, vocabulary(), folds, repeat=repeat) if name == "nif" else artifact(root, name)
    rows = serving_pages(raw_pages(2), FLOW_COLUMNS) if name == "nif" else example(name)
    return registry.register(Candidate(f"small-{name}", "small", folder, root.name, rows))


def found_of(lake: Lake, made: Version) -> dict[str, tuple[list[str], list[float]]]:
    rows = lake.table("retrieved").read_arrow([DAY]).to_pylist()
    own = (made.name, str(made.version))
    return {r["user_id"]: (r["item_id"], r["score"]) for r in rows if (r["model"], r["model_version"]) == own}


def walks(spark: SparkSession, lake: Lake) -> pa.Table:
    cuts = lake.read(spark, "movelines", [DAY]).select("user_id").withColumn(
        "cut_time", F.lit(datetime(2026, 1, 5, tzinfo=UTC) + timedelta(1)))
    return with_context(cuts, lake.read(spark, "movelines"), lake.read(spark, "visits"), RECIPE.movelines).frame.toArrow()


def categories(lake: Lake) -> dict[str, str]:
    """Of every item, the category it had last (of two at once, the later by name)."""
    rows = lake.table("movelines").read_arrow([DAY], ["item_id", "category_id", "event_time"]).to_pylist()
    seen = sorted((t, c, i) for r in rows for i, c, t in zip(*r.values(), strict=True) if i)
    return {i: c for _, c, i in seen}


def assert_best(found: tuple[list[str], list[float]], naive: dict[str, float]) -> None:
    items, scores = found
    assert len(items) == MOST and scores == sorted(scores, reverse=True) and len(set(items)) == MOST
    assert max(abs(naive[item] - score) for item, score in zip(items, scores, strict=True)) < 1e-5
    rest = [score for item, score in naive.items() if item not in items]
    assert max(rest, default=-1.0) <= scores[-1] + 1e-5


@pytest.mark.parametrize("repeat", [None, -0.4])
def test_a_generator_retrieves_what_its_served_flow_lies_nearest_to(
        spark: SparkSession, lake: Lake, repeat: float | None) -> None:
    registry, made = Registry(), version(lake, "nif", 2, repeat)
    done = retrieve(spark, RECIPE, lake, DAY, made, registry, MOST)
    assert (done.status, done.rows, done.counts) == ("built", 13, {"in": 13, "out": 13})
    found, rows, kinds = found_of(lake, made), walks(spark, lake), categories(lake)
    own, known = Generator(registry.folder(made)), sorted(set(kinds) & set(IDS["item"]))
    served = load(made.uri).predict(serving_pages(rows, FLOW_COLUMNS))["flow"]
    walked = {row["user_id"]: row["moveline_item"] for row in rows.select(["user_id", "moveline_item"]).to_pylist()}
    for user, flow in zip(rows["user_id"].to_pylist(), served, strict=True):
        steps = np.array(flow).reshape(own.shape)
        vectors = own.items(pa.array([user] * len(known)), pa.array(known), pa.array([kinds[i] for i in known]))
        assert_best(found[user], {i: max(float(step @ v) for step in steps) + (repeat or 0.0) * (i in walked[user])
                                  for i, v in zip(known, vectors, strict=True)})
    assert retrieve(spark, RECIPE, lake, DAY, made, registry, MOST).status == "skipped"


def test_item2vec_retrieves_what_is_like_the_last_items_of_the_moveline(spark: SparkSession, lake: Lake) -> None:
    registry, made = Registry(), version(lake, "item2vec")
    retrieve(spark, RECIPE, lake, DAY, made, registry, MOST)
    found, kinds, words = found_of(lake, made), categories(lake), vocabulary()
    weights = {name.split(".")[3]: own.numpy() for name, own in load_artifact(registry.folder(made)).state_dict().items()
               if name.startswith("tables.")}

    def vector(item: str, category: str | None) -> np.ndarray:
        given = {"item": item, "category": category}
        index = {field: words.encode(field, pa.array([own], pa.string()))[0] for field, own in given.items()}
        whole = weights["item"][index["item"]] + (weights["category"][index["category"]] if index["category"] else 0)
        return whole[:-1] / np.linalg.norm(whole[:-1])

    known = {i: vector(i, kinds[i]) for i in kinds if i in IDS["item"]}
    for row in walks(spark, lake).select(["user_id", "moveline_item", "moveline_category"]).to_pylist():
        tokens = list(zip(row["moveline_item"], row["moveline_category"], strict=True))[-8:]
        last = [vector(item, category) for item, category in tokens if item]
        if last:
            assert_best(found[row["user_id"]], {i: max(float(own @ v) for own in last) for i, v in known.items()})
        else:
            assert row["user_id"] == "idle" and found["idle"] == ([], [])


def test_what_cannot_retrieve_is_said(spark: SparkSession, lake: Lake) -> None:
    registry, made = Registry(), version(lake, "din")
    with pytest.raises(ModelError, match=r"small-din/1 has no vectors of users and items to compare; nif and item2vec have"):
        retrieve(spark, RECIPE, lake, DAY, made, registry, MOST)
    with pytest.raises(TableError, match="movelines has no rows of 2026-01-09; build it with `moveline daily --ds 2026-01-09`"):
        retrieve(spark, RECIPE, lake, "2026-01-09", made, registry, MOST)
