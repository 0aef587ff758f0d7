"""The whole of one model on a small random log: real Delta tables, a real MLflow, real training."""

import json
import shutil
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
from feature_store.session import spark_schema
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs import train_models
from jobs.train_models import train_model
from jobs.warm import check_fits
from models.artifact import VOCABULARY
from models.registry import Fetched, Registry, load
from models.serving import serving_pages
from tests.models.registered import IDS, raw_pages

DAYS = ("2026-05-01", "2026-05-02", "2026-05-03")
RECIPE = {
    "name": "small",
    "source": {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}],
               "exposures": [{"from": "log", "columns": {}}]},
    "vocabulary_buckets": 4,
    "models": {"din": {"dim": 4, "epochs": 1, "items_a_batch": 64}, "item2vec": {"dim": 8, "epochs": 1, "items_a_batch": 64}},
}


def day_of_pages(ds: str, seed: int) -> pa.Table:
    """Thirty random pages, spread over the day."""
    rows = raw_pages(30, seed).to_pylist()
    start = datetime.fromisoformat(ds).replace(tzinfo=UTC)
    for n, row in enumerate(rows):
        cut = start + timedelta(minutes=45 * n)
        back = row["cut_time"] - cut
        row |= {"page_id": f"{ds}-{n}", "ds": ds, "cut_time": cut, "shown_time": cut, "label_time": cut, "available_time": cut,
                "moveline_time": [t - back for t in row["moveline_time"]], "visit_time": [t - back for t in row["visit_time"]]}
    return pa.Table.from_pylist(rows, schema=PAGES.schema)


@pytest.fixture(scope="module")
def conf(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A recipe whose three days of pages, pairs and vocabulary are built."""
    from jobs import pairs

    root = tmp_path_factory.mktemp("whole")
    path = root / "small.yaml"
    path.write_text(yaml.safe_dump(RECIPE))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(root / "var"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        lake = Lake(lake_root("small"))
        recipe = train_models.load_recipe(path)
        for seed, ds in enumerate(DAYS):
            frame = spark.createDataFrame(day_of_pages(ds, seed).to_pylist(), spark_schema(PAGES.schema))
            lake.table("pages").begin(ds).commit(frame, counts={"in": 30, "out": 30}, inputs={"seed": str(seed)}, arranged=True)
            pairs.build(spark, recipe, lake, ds)
        write_vocabulary(spark, lake)
        yield path


def write_vocabulary(spark: SparkSession, lake: Lake) -> None:
    """Every id of `IDS`, known since before the first day, and one item that is new on the second."""
    known = datetime(2026, 4, 30, tzinfo=UTC)
    rows = [(field, name, 5 + n, known, "2026-04-30") for field, names in IDS.items() for n, name in enumerate(names)]
    rows.append(("item", "fresh", 5 + len(IDS["item"]), datetime(2026, 5, 2, 9, tzinfo=UTC), "2026-05-02"))
    table = lake.table("vocabulary")
    for ds in ("2026-04-30", "2026-05-02"):
        own = [row for row in rows if row[-1] == ds]
        frame = spark.createDataFrame(own, spark_schema(table.contract.schema))
        table.begin(ds).commit(frame, counts={"in": len(own), "out": len(own)}, inputs={"by": "test"})


@pytest.mark.parametrize("model", ["din", "item2vec"])
def test_a_model_is_trained_judged_registered_and_becomes_champion(conf: Path, spark: SparkSession, model: str) -> None:
    made = train_model(conf, model, spark=spark)
    assert (made.version.version, made.day, made.reused, made.version.aliases) == (1, "2026-05-03", False, ("champion",))
    assert 0 <= made.metrics["test.auc"] <= 1 and "test.popularity.auc" in made.metrics
    assert {"report.html", "manifest.json", "result.json"} <= {f.name for f in made.folder.iterdir()}
    tags = made.version.tags
    assert tags["fingerprint"] == made.fingerprint and tags["day"] == "2026-05-03"
    assert json.loads(tags["tables"])["pages"]["version"] == 3
    manifest = json.loads((made.folder / "manifest.json").read_text())
    assert all(f["bytes"] and f["digest"] for f in manifest["train"]["files"])
    assert str(made).startswith(f"small-{model} version 1 registered in")


def test_the_same_tables_are_not_trained_on_again(conf: Path, spark: SparkSession) -> None:
    first, again = train_model(conf, "din", spark=spark), train_model(conf, "din", spark=spark)
    assert again.reused and again.version.version == first.version.version
    assert "was registered already for these tables" in str(again)


def test_a_run_cut_short_before_the_alias_is_finished(conf: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    def stopped(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    recipe = yaml.safe_load(conf.read_text())
    other = conf.with_name("other.yaml")
    recipe["models"]["din"]["seed"] = 11
    other.write_text(yaml.safe_dump(recipe))
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_alias", stopped)
        with pytest.raises(KeyboardInterrupt):
            train_model(other, "din", spark=spark)
    versions = Registry().versions("small-din")
    made = train_model(other, "din", spark=spark)
    assert len(Registry().versions("small-din")) == len(versions) and "champion" in made.version.aliases


def test_the_champion_scores_raw_pages_as_the_encoded_evaluation_did(conf: Path, spark: SparkSession) -> None:
    from models.artifact import load_artifact
    from models.scoring import page_scores

    made = train_model(conf, "din", spark=spark)
    spec = json.loads((made.folder / "model" / "spec.json").read_text())
    encoded = EncodedSet.load(Path(spec["train"]).with_name("test")).read()
    expected = page_scores(load_artifact(made.folder / "model"), encoded)
    raw = Lake(lake_root("small")).table("pages").read_arrow(["2026-05-03"])
    order = {page: n for n, page in enumerate(raw["page_id"].to_pylist())}
    served = load(made.version.uri).predict(serving_pages(raw))["scores"]
    found = np.concatenate([served.iloc[order[page]] for page in encoded["page_id"].to_pylist()])
    assert np.abs(found - expected).max() < 1e-5


def test_an_unknown_model_and_missing_days_are_named(conf: Path) -> None:
    with pytest.raises(ModelError, match="no model is called 'dien'"):
        train_model(conf, "dien")
    with pytest.raises(TableError, match="training needs the days 2026-05-02 to 2026-05-04; pages still lacks 2026-05-04"):
        train_model(conf, "din", "2026-05-04")


def warm_recipe(conf: Path, name: str) -> Path:
    """A recipe on a copy of the tables that trains on one day and tests on the next."""
    path = conf.with_name(f"{name}.yaml")
    models = {"item2vec": {"dim": 8, "epochs": 1, "items_a_batch": 64}}
    path.write_text(yaml.safe_dump({**RECIPE, "name": name, "models": models, "split": {"train_days": 1, "validate_hours": 2}}))
    shutil.copytree(lake_root("small"), lake_root(name))
    return path


@pytest.mark.drill
def test_a_warm_start_goes_on_from_the_champion_with_a_grown_vocabulary_and_two_processes(
        conf: Path, spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from jobs import train as jobs_train

    path, ranks, by_torchrun = warm_recipe(conf, "warm"), [], jobs_train._by_torchrun
    monkeypatch.setattr(jobs_train, "_by_torchrun", lambda spec, processes: (ranks.append(processes), by_torchrun(spec, processes)))
    with pytest.raises(ModelError, match="warm-item2vec has no version with the alias champion to start from; train one without"):
        train_model(path, "item2vec", DAYS[1], spark=spark, warm=True)
    first = train_model(path, "item2vec", DAYS[1], spark=spark)
    second = train_model(path, "item2vec", DAYS[2], spark=spark, warm=True, processes=2)
    assert (first.version.tags.get("warm_from"), second.version.tags["warm_from"]) == (None, first.version.uri) and ranks == [2]
    assert (second.version.version, second.version.aliases) == (2, ("champion",))

    old, new = (Vocabulary.load(made.folder / "model" / VOCABULARY) for made in (first, second))
    assert "fresh" in new.entries("item")["id"].to_pylist() and "fresh" not in old.entries("item")["id"].to_pylist()
    spec, result = (json.loads((second.folder / "model" / name).read_text()) for name in ("spec.json", "result.json"))
    cold = jobs_train.train(train_models.load_recipe(path), "item2vec", EncodedSet.load(spec["train"]), None, tmp_path)
    assert result["losses"][0] < cold.losses[0]  # the same first batch: what the champion had learned was taken over
    again = train_model(path, "item2vec", DAYS[2], spark=spark, warm=True)
    assert again.reused and again.version.version == 2


def test_a_champion_whose_ids_mean_something_else_is_no_start(conf: Path, spark: SparkSession, tmp_path: Path) -> None:
    first = pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", tz="UTC"))
    entries = pa.table({"field": ["item"], "id": ["i1"], "index": [5], "first_time": first})
    Vocabulary(entries, buckets=4).save(tmp_path / VOCABULARY)
    made = train_model(conf, "item2vec", spark=spark)
    start = Fetched(made.version, Registry().folder(made.version))
    check_fits(start, made.folder / "model" / VOCABULARY)
    with pytest.raises(ModelError, match=r"item2vec/\d+ was trained with a vocabulary that is no earlier state .* without --warm"):
        check_fits(start, tmp_path / VOCABULARY)
