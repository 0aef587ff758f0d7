"""Every model that ranks pages: the scores of the Spark job are those of the evaluation and of the served version."""

import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.contracts import PAGES
from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError, TableError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs.day import day_start
from jobs.encode import encode
from jobs.score import score_days, scores_of
from jobs.windows import Window
from models.artifact import VOCABULARY, load_artifact
from models.generator import GENERATOR, Generator, cached_flow
from models.kinds import READS
from models.registry import Candidate, Registry, Version, load
from models.scoring import page_scores
from models.serving import serving_pages
from tests.jobs.cluster import ROOT, cluster_env
from tests.models.registered import candidate, example, raw_pages
from tests.models.served import whole_artifact

DAY = "2026-05-01"
RANKING = sorted(name for name, reads in READS.items() if reads == "pages")
SOURCE = {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}],
          "exposures": [{"from": "log", "columns": {}}]}
RECIPE = Recipe.model_validate({"name": "small", "vocabulary_buckets": 4, "source": SOURCE})


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """One day of sixty pages, in more than one file."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(tmp_path_factory.mktemp("score")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MOVELINE_LAKE", raising=False)
        rows = raw_pages(60, 3).to_pylist()
        for n, row in enumerate(rows):
            row |= {"user_id": f"u{n % 15}", "shown_time": datetime(2026, 5, 1, 9, tzinfo=UTC) + timedelta(minutes=n), "ds": DAY}
        found = Lake(lake_root("small"))
        frame = spark.createDataFrame(rows, spark_schema(PAGES.schema)).repartition(3, "user_id")
        arranged = frame.sortWithinPartitions("user_id", "shown_time")
        found.table("pages").begin(DAY).commit(arranged, counts={}, inputs={}, arranged=True)
        yield found


@pytest.fixture(scope="module")
def versions(lake: Lake) -> dict[str, Version]:
    root, registry = Path(lake.root).parent / "made", Registry()
    return {name: registry.register(Candidate(f"small-{name}", "small", whole_artifact(root / name, name), "f", example()))
            for name in RANKING}


def evaluated(spark: SparkSession, lake: Lake, folder: Path) -> tuple[EncodedSet, np.ndarray]:
    """What `jobs.evaluate` computes: encoded by Spark with the model's vocabulary, the flow from its cache, then scored."""
    words = Vocabulary.load(folder / VOCABULARY)
    found = encode(spark, RECIPE, lake, [Window("test", day_start(DAY), day_start(DAY) + timedelta(1))], words)["test"]
    flow = None
    if (folder / GENERATOR).is_dir():
        flow = np.load(cached_flow(found, Generator(folder / GENERATOR, words)))
    return found, page_scores(load_artifact(folder), found.read(), flow)


def by_page(pages: pa.Table, lengths: np.ndarray, scores: np.ndarray) -> dict[str, np.ndarray]:
    return dict(zip(pages["page_id"].to_pylist(), np.split(scores, np.cumsum(lengths)[:-1]), strict=True))


def apart(found: dict[str, list[float]], expected: dict[str, np.ndarray]) -> float:
    """The largest difference of two scores of one item."""
    return max(float(np.abs(np.asarray(found[page]) - own).max()) for page, own in expected.items())


@pytest.mark.parametrize("name", RANKING)
def test_scores_of_spark_evaluation_and_served_version_agree(
        spark: SparkSession, lake: Lake, versions: dict[str, Version], name: str) -> None:
    registry, version = Registry(), versions[name]
    made, = score_days(spark, RECIPE, lake, [DAY], version, registry)
    assert (made.status, made.rows, made.counts) == ("built", 60, {"in": 60, "out": 60})
    batch = scores_of(lake.table("scores"), DAY, version)
    found = dict(zip(batch["page_id"].to_pylist(), batch["score"].to_pylist(), strict=True))

    encoded, scores = evaluated(spark, lake, registry.folder(version))
    pages = encoded.read()
    expected = by_page(pages, pages["n_items"].to_numpy(), scores)
    assert set(found) == set(expected) and len(found) == 60
    assert apart(found, expected) < 1e-5
    assert np.std(scores) > 1e-3, "scores that do not differ would prove nothing"

    raw = lake.table("pages").read_arrow([DAY])
    served = load(version.uri).predict(serving_pages(raw))["scores"]
    assert apart(found, dict(zip(raw["page_id"].to_pylist(), served, strict=True))) < 1e-5
    items = dict(zip(batch["page_id"].to_pylist(), batch["item_id"].to_pylist(), strict=True))
    assert all(items[row["page_id"]] == row["item_id"] for row in raw.select(["page_id", "item_id"]).to_pylist())


def test_a_day_is_scored_once_by_a_version_and_others_stay(spark: SparkSession, lake: Lake, versions: dict[str, Version]) -> None:
    registry, table = Registry(), lake.table("scores")
    for name in ("din", "ccn"):
        list(score_days(spark, RECIPE, lake, [DAY], versions[name], registry))
    again, = score_days(spark, RECIPE, lake, [DAY], versions["din"], registry)
    assert again.status == "skipped" and again.rows == 60
    assert scores_of(table, DAY, versions["din"]) != scores_of(table, DAY, versions["ccn"])
    assert table.read(spark, [DAY]).where("model = 'small-din' and model_version = '1'").count() == 60


@pytest.mark.drill
@pytest.mark.timeout(400)
def test_executors_in_processes_of_their_own_get_the_model_and_score_alike(
        spark: SparkSession, lake: Lake, versions: dict[str, Version], tmp_path: Path) -> None:
    version = versions["amen"]
    list(score_days(spark, RECIPE, lake, [DAY], version, Registry()))
    shutil.copytree(f"{lake.root}/pages", tmp_path / "lakes" / "small" / "pages")
    conf = tmp_path / "small.yaml"
    conf.write_text(yaml.safe_dump({"name": "small", "source": SOURCE, "vocabulary_buckets": 4}))
    arguments = ["score", "amen", "--version", "1", "--conf", str(conf), "--ds", DAY]
    done = subprocess.run([sys.executable, "-m", "jobs.main", *arguments], cwd=ROOT, capture_output=True, text=True, check=False,
                          env={**cluster_env(tmp_path), "MOVELINE_LAKE": str(tmp_path / "lakes")})
    assert done.returncode == 0, done.stdout + done.stderr[-3_000:]
    assert "models:/small-amen/1 2026-05-01 scores" in done.stdout and "60 rows of 60 read" in done.stdout
    here, there = (scores_of(own.table("scores"), DAY, version) for own in (lake, Lake(str(tmp_path / "lakes" / "small"))))
    found, expected = (dict(zip(own["page_id"].to_pylist(), own["score"].to_pylist(), strict=True)) for own in (there, here))
    assert apart(found, expected) < 1e-5


def test_what_cannot_be_scored_is_said(spark: SparkSession, lake: Lake, versions: dict[str, Version], tmp_path: Path) -> None:
    registry = Registry()
    with pytest.raises(TableError, match="pages has no day 2026-05-09; build it with `moveline daily --ds 2026-05-09`"):
        list(score_days(spark, RECIPE, lake, ["2026-05-09"], versions["din"], registry))
    pairs = registry.register(candidate(tmp_path, "item2vec"))
    with pytest.raises(ModelError, match="models:/small-item2vec/1 reads pairs: it ranks no pages"):
        list(score_days(spark, RECIPE, lake, [DAY], pairs, registry))
