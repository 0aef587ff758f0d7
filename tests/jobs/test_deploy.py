"""A champion is put to use when its scores look like those of the version in use: real MLflow, real pages, real Spark."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from feature_store.errors import ModelError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs.deploy import DECISION, DEPLOYED, canary, deploy, undeployed
from models import ledger
from models.artifact import Weights, load_artifact, save_artifact
from models.ranker import Ranker
from models.registry import Candidate, Registry, Version
from tests.jobs.test_gate import DAYS, SOURCE, commit_pages, day_of_pages, home_at, made
from tests.models.registered import candidate, example

RECIPE = Recipe.model_validate({"name": "small", "source": SOURCE, "deploy": {"canary_share": 1.0}, "vocabulary_buckets": 4,
                                "models": {"din": {}, "item2vec": {}}})


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with home_at(tmp_path_factory.mktemp("deploy")) as root:
        found = Lake(lake_root("small"))
        commit_pages(spark, found, DAYS[0], day_of_pages(DAYS[0], 0, Ranker(made(root / "made", 1))))
        yield found


def version(lake: Lake, fingerprint: str, change: float = 1.0) -> Version:
    """The model with its embeddings times `change`."""
    root = Path(lake.root).parents[1] / "made"
    model = load_artifact(root / "artifact")
    state = {name: tensor * (change if "embeddings" in name else 1) for name, tensor in model.state_dict().items()}
    folder = save_artifact(root / fingerprint, model, Weights(state, {}), root / "words.parquet")
    return Registry().register(Candidate("small-din", "small", folder, fingerprint, example()))


def used() -> int:
    found = Registry().by_alias("small-din", DEPLOYED)
    return found.version if found else 0


@pytest.mark.drill
def test_a_champion_is_tried_beside_the_version_in_use(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    registry = Registry()
    with pytest.raises(ModelError, match="small-din has no champion to deploy"):
        deploy(spark, RECIPE, lake, "din")
    first = registry.set_alias(version(lake, "first"))
    assert undeployed(RECIPE, registry) == ["din"] and used() == 0
    assert set(deploy(spark, RECIPE, lake, "din").aliases) == {"champion", DEPLOYED}
    assert undeployed(RECIPE, registry) == [] and deploy(spark, RECIPE, lake, "din").version == first.version

    alike = registry.set_alias(version(lake, "alike", 1.02))
    assert deploy(spark, RECIPE, lake, "din").version == alike.version == used()
    assert registry.metrics(alike)["deploy.stability"] < 0.25

    other = registry.set_alias(version(lake, "narrow", 0.05))
    with pytest.raises(ModelError, match=rf"models:/small-din/{other.version} is not deployed: its scores lie elsewhere: stability "
                                         rf"index .*, the limit 0.25; models:/small-din/{alike.version} stays in use"):
        deploy(spark, RECIPE, lake, "din")
    assert used() == alike.version and registry.current(other).tags[DECISION].startswith("refused: ")
    entries = [(e.action, e.from_version, e.to_version, e.reason) for e in ledger.read(model="small-din", alias=DEPLOYED)]
    assert entries == [("deploy", 0, first.version, "canary of 2026-05-01 passed, the first"),
                       ("deploy", first.version, alike.version, f"canary of 2026-05-01 passed, beside version {first.version}")]


def test_a_model_that_ranks_no_pages_is_deployed_unchecked(spark: SparkSession, lake: Lake, tmp_path: Path) -> None:
    registry = Registry()
    registry.set_alias(registry.register(candidate(tmp_path, "item2vec")))
    assert DEPLOYED in deploy(spark, RECIPE, lake, "item2vec").aliases
    assert ledger.read(model="small-item2vec", alias=DEPLOYED)[-1].reason == "ranks no pages: not checked"


def test_a_canary_is_a_share_of_the_users_with_all_their_pages(spark: SparkSession) -> None:
    pages = spark.range(4_000).selectExpr("concat('u', id % 1000) as user_id")
    some = canary(pages, 0.1).groupBy("user_id").count().collect()
    assert {r["count"] for r in some} == {4} and 60 < len(some) < 140 and canary(pages, 1.0).count() == 4_000
