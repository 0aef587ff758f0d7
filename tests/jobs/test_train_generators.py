"""A generator, then the model that reads its flow: out of sample, with lineage, and served from raw ids as it was judged."""

import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
import yaml
from pyspark.sql import SparkSession

from feature_store.contracts import FLOWS, MOVELINES
from feature_store.encoded_set import EncodedSet
from feature_store.errors import ConfigError, ModelError, TableError
from feature_store.home import lake_root
from feature_store.recipe import load_recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs.snapshot import snapshot
from jobs.train import Spec, _start
from jobs.train_models import train_model
from models.artifact import Weights, load_weights
from models.catalog import model_class
from models.embeddings import capacities
from models.generator import GENERATOR, Generator
from models.registry import Registry, load
from models.serving import FLOW_COLUMNS, serving_pages
from tests.jobs.test_train_models import day_of_pages, write_vocabulary
from tests.models.generators import generator
from tests.models.registered import IDS, vocabulary

DAYS = ("2026-05-01", "2026-05-02", "2026-05-03")
NIF = {"dim": 8, "heads": 2, "layers": 1, "future": 3, "epochs": 1, "items_a_batch": 64, "negatives": 16}
AMEN = {"generator": "nif", "dim": 8, "heads": 2, "future": 3, "epochs": 1, "items_a_batch": 64}
LOG = {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}]}
RANKED = {**LOG, "exposures": [{"from": "log", "columns": {}}]}


def day_of_flows(ds: str, seed: int) -> pa.Table:
    """Thirty random cuts, with what pages know of their users, and some next items within the hour."""
    draw, rows = np.random.default_rng(seed), []
    names = {"future_item": "item", "future_category": "category", "future_scene": "scene", "future_action": "action"}
    for page in day_of_pages(ds, seed).to_pylist():
        ahead = int(draw.integers(1, 5))
        future: dict[str, Any] = {name: [str(i) for i in draw.choice(IDS[field], ahead)] for name, field in names.items()}
        rows.append({name: page.get(name) for name in FLOWS.columns} | future
                    | {"future_time": [page["cut_time"] + timedelta(minutes=10 * k) for k in range(ahead)], "ds": ds})
    unique = {(row["user_id"], row["cut_time"]): row for row in rows}
    return pa.Table.from_pylist(list(unique.values()), schema=FLOWS.schema)


def day_of_movelines(ds: str, seed: int) -> pa.Table:
    """What four users did on a day, every half an hour; some tokens have no item."""
    draw, start = np.random.default_rng(seed + 100), datetime.fromisoformat(ds).replace(tzinfo=UTC)
    rows = []
    for user in range(4):
        times = [start + timedelta(minutes=30 * n + user) for n in range(40)]
        some = {field: [str(i) for i in draw.choice(IDS[field], 40)] for field in ("scene", "action", "item", "category")}
        rows.append({"user_id": f"u{user}", "event_time": times, "available_time": times, "scene": some["scene"],
                     "action": some["action"], "item_id": [None if draw.random() < 0.2 else i for i in some["item"]],
                     "category_id": some["category"], "dwell_ms": [None] * 40,
                     "replaced_time": [None] * 40, "n_tokens": 40, "n_over_cap": 0, "ds": ds})
    return pa.Table.from_pylist(rows, schema=MOVELINES.schema)


@pytest.fixture(scope="module")
def root(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A state folder in which three days of pages, pairs and flows are built for the recipe `small`, and of flows for `events`."""
    from jobs import pairs

    folder = tmp_path_factory.mktemp("generators")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(folder / "var"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        recipe = load_recipe(conf(folder, "small", RANKED, {}, {"nif": NIF}))
        lake = Lake(lake_root("small"))
        for seed, ds in enumerate(DAYS):
            for table, made in (("pages", day_of_pages(ds, seed)), ("flows", day_of_flows(ds, seed)),
                                ("movelines", day_of_movelines(ds, seed))):
                frame = spark.createDataFrame(made, spark_schema(made.schema))
                lake.table(table).begin(ds).commit(frame, counts={}, inputs={"seed": str(seed)}, arranged=True)
            pairs.build(spark, recipe, lake, ds)
        write_vocabulary(spark, lake)
        for table in ("flows", "vocabulary"):
            shutil.copytree(f"{lake_root('small')}/{table}", f"{lake_root('events')}/{table}")
        yield folder


def conf(folder: Path, name: str, source: dict, split: dict, models: dict) -> Path:
    path = folder / f"{name}-{len(list(folder.glob('*.yaml')))}.yaml"
    path.write_text(yaml.safe_dump({"name": name, "source": source, "vocabulary_buckets": 4, "split": split, "models": models}))
    return path


def test_amen_reads_the_registered_generator_and_is_served_as_it_was_judged(root: Path, spark: SparkSession) -> None:
    both = conf(root, "small", RANKED, {"generator_days": 1}, {"nif": NIF, "amen": AMEN})
    with pytest.raises(ModelError, match="no version of small-nif was trained on these tables; run `moveline train_model nif`"):
        train_model(both, "amen", spark=spark)
    nif = train_model(both, "nif", spark=spark)
    assert 0 <= nif.metrics["test.recall_50"] <= 1 and "test.popularity.recall_200" in nif.metrics and nif.metrics["test.loss"] > 0
    assert 1 <= nif.metrics["test.effective_rank"] <= 8 and nif.version.aliases == ("champion",)
    amen = train_model(both, "amen", spark=spark)
    frozen = Generator(amen.folder / "model" / GENERATOR)
    assert amen.version.tags["generator"] == f"small-nif/{nif.version.version}"
    assert amen.version.tags["generator_digest"] == frozen.digest == Generator(Registry().folder(nif.version)).digest
    manifest = json.loads((nif.folder / "manifest.json").read_text())
    assert manifest["train"]["kind"] == "flows" and manifest["train"]["last_time"] <= frozen.last_future
    spec = json.loads((amen.folder / "model" / "spec.json").read_text())
    assert frozen.last_future < EncodedSet.load(spec["train"]).first_time
    assert EncodedSet.load(spec["train"]).days == ("2026-05-02",)
    _served_as_judged(amen.folder, amen.version.uri, Path(spec["train"]).with_name("test"))
    raw = Lake(lake_root("small")).table("flows").read_arrow(["2026-05-03"])
    assert len(load(nif.version.uri).predict(serving_pages(raw, FLOW_COLUMNS))["flow"].iloc[0]) == 3 * 8


def _served_as_judged(folder: Path, uri: str, test: Path) -> None:
    from feature_store.vocabulary import Vocabulary
    from models.artifact import VOCABULARY, load_artifact
    from models.generator import cached_flow
    from models.scoring import page_scores

    encoded, artifact = EncodedSet.load(test), folder / "model"
    flow = np.load(cached_flow(encoded, Generator(artifact / GENERATOR, Vocabulary.load(artifact / VOCABULARY))))
    pages = encoded.read()
    expected = page_scores(load_artifact(artifact), pages, flow)
    raw = Lake(lake_root("small")).table("pages").read_arrow(["2026-05-03"])
    order = {page: n for n, page in enumerate(raw["page_id"].to_pylist())}
    served = load(uri).predict(serving_pages(raw))["scores"]
    assert np.abs(np.concatenate([served.iloc[order[p]] for p in pages["page_id"].to_pylist()]) - expected).max() < 1e-5
    assert np.abs(page_scores(load_artifact(artifact), pages, flow[::-1].copy()) - expected).max() > 1e-5


def test_a_generator_that_saw_the_rows_is_refused_by_the_name_of_their_window(root: Path, spark: SparkSession) -> None:
    both = conf(root, "small", RANKED, {}, {"nif": NIF, "amen": AMEN})
    train_model(both, "nif", spark=spark)
    with pytest.raises(ModelError, match=r"window train begins at 2026-05-01 00:00:00, and the generator was trained on "
                                         r"items up to 2026-05-02 .*split.generator_days.*split.generator_folds"):
        train_model(both, "amen", spark=spark)


def test_with_folds_every_user_gets_the_flow_of_a_generator_trained_on_others(root: Path, spark: SparkSession) -> None:
    both = conf(root, "small", RANKED, {"generator_folds": 2}, {"nif": NIF, "amen": AMEN})
    nif = train_model(both, "nif", spark=spark)
    manifest = json.loads((nif.folder / "manifest.json").read_text())
    assert set(manifest) == {f"{role}{fold}" for role in ("train", "validate", "test") for fold in ("", "-1")}
    amen = train_model(both, "amen", spark=spark)
    assert Generator(amen.folder / "model" / GENERATOR).folds == 2 and 0 <= amen.metrics["test.auc"] <= 1
    spec = json.loads((amen.folder / "model" / "spec.json").read_text())
    assert EncodedSet.load(spec["train"]).days == ("2026-05-01", "2026-05-02")
    _served_as_judged(amen.folder, amen.version.uri, Path(spec["train"]).with_name("test"))


def test_a_log_of_events_alone_trains_a_generator_and_nothing_that_ranks(root: Path, spark: SparkSession) -> None:
    alone = conf(root, "events", LOG, {}, {"nif": NIF})
    made = train_model(alone, "nif", spark=spark)
    assert made.day == "2026-05-03" and "test.recall_50" in made.metrics
    assert str(made).startswith("events-nif version 1 registered in") and "recall_50" in str(made)
    ranking = load_recipe(conf(root, "events", LOG, {}, {"nif": NIF, "din": {}}))
    assert "nothing to rank for din" in snapshot(ranking, Lake(lake_root("events")), DAYS[-1]).reason
    with pytest.raises(TableError, match="flows still lacks 2026-05-04"):
        train_model(alone, "nif", "2026-05-04")


def test_a_recipe_without_the_generator_it_names_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"`models.amen.generator` is 'nif', which is not among the models"):
        load_recipe(conf(tmp_path, "small", RANKED, {}, {"amen": AMEN}))


def test_a_model_begins_with_its_generators_tensors_unless_that_has_folds(tmp_path: Path) -> None:
    settings = {"generator": "nif", "dim": 8, "heads": 2, "future": 3}
    rows = capacities({field: vocabulary().rows(field) for field in IDS})

    def begun(folds: int, **more: object) -> Weights | None:
        folder = generator(tmp_path / f"{folds}", vocabulary(), folds)
        spec = Spec(model="amen", settings={}, rows=rows, train="", validate_on=None, vocabulary=None, warm_from=None,
                    checkpoints="", out="", resume=False, generator=str(folder))
        return _start(spec, model_class("amen").build({**settings, **more}, rows))

    table = "tables.collection.embeddings.item.weight"
    begin = begun(1)
    assert begin is not None and torch.equal(begin.model[table], load_weights(tmp_path / "1").model[table])
    assert begun(2) is None and begun(1, init=False) is None
