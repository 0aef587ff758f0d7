"""An exported model scores as it did in training, from a checkpoint of one or two ranks, with int8 tables, and from its tables."""

import json
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest
import torch
from pyspark.sql import SparkSession

from feature_store.collate import page_batch
from feature_store.contracts import ITEMS
from feature_store.encoding import encode_pages
from feature_store.errors import ModelError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs.export import export_run, export_version, item_side
from jobs.train import launch, spec_of
from models.artifact import Weights, load_artifact, save_artifact
from models.catalog import model_class
from models.embeddings import capacities
from models.losses import weighted_auc
from models.nearest import Nearest
from models.quantised import load_quantised, quantise_tables
from models.registry import Candidate, Registry, Version
from models.scoring import page_scores
from models.tarq import Tarq
from tests.models.encoded import encoded_set
from tests.models.registered import IDS, START, example, raw_pages, vocabulary

DAY = "2026-05-01"
SOURCE = {"inputs": {}, "events": [{"from": "a", "columns": {}}]}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("MLFLOW_TRACKING_URI", "MOVELINE_LAKE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    return tmp_path / "var"


def filled(spark: SparkSession) -> Lake:
    """A lake with the small log's vocabulary and a category for all items but the last; one of them changed later, one too late."""
    lake = Lake(lake_root("small"))
    words = [(row["field"], row["id"], row["index"], START, DAY) for row in vocabulary().entries().to_pylist()]
    table = lake.table("vocabulary")
    table.begin(DAY).commit(spark.createDataFrame(words, spark_schema(table.contract.schema)), counts={}, inputs={})
    known = [(name, IDS["category"][n % 2], START) for n, name in enumerate(IDS["item"][:-1])]
    known += [("i0", "c2", START + timedelta(hours=1)), ("i1", "c1", START + timedelta(days=1))]
    empty = {field.name: None for field in ITEMS.schema}
    rows = [empty | {"item_id": name, "category_id": category, "valid_from": at, "available_time": at, "ds": DAY}
            for name, category, at in known]
    frame = spark.createDataFrame(rows, spark_schema(ITEMS.schema))
    lake.table("items").begin(DAY).commit(frame, counts={}, inputs={})
    return lake


def registered(folder: Path, name: str, **settings: object) -> Version:
    """A version of an untrained model whose items differ in codes and scores."""
    words = vocabulary()
    folder.mkdir(parents=True)
    words.save(folder / "words.parquet")
    model = model_class(name).build(settings, capacities({field: words.rows(field) for field in IDS}))
    larger = {key: 30 if "embeddings" in key else 3 if "books" in key else 1 for key in model.state_dict()}
    weights = {key: tensor * larger[key] for key, tensor in model.state_dict().items()}
    made = save_artifact(folder / "artifact", model, Weights(weights, {}), folder / "words.parquet")
    return Registry().register(Candidate(f"small-{name}", "small", made, "f", example(), tags={"day": DAY}))


@pytest.mark.drill
def test_scores_from_the_tables_are_those_of_the_exported_module(spark: SparkSession, home: Path) -> None:
    lake, version = filled(spark), registered(home / "made", "tarq", dim=16, codes=8)
    made = export_version(spark, lake, version, Registry())
    model, pages = load_artifact(made.folder / "model"), raw_pages(20)
    assert isinstance(model, Tarq) and made.items == 30
    side = item_side(lake.table("item_side"), DAY, version)
    codes, vectors = (np.stack(side[name].to_numpy()) for name in ("codes", "vector"))
    assert len(np.unique(codes, axis=0)) > 10
    shown = lake.table("item_side").read_arrow([DAY], ["item_id", "category_id"])
    known = dict(zip(*(shown[name].to_pylist() for name in shown.column_names), strict=True))
    assert (known["i0"], known["i1"], known["i29"]) == ("c2", "c2", None)

    rows = {name: n for n, name in enumerate(side["item_id"].to_pylist())}
    page = pages.to_pylist()
    for row in page:  # as the tables have them: the category of the item, and no place yet
        row |= {"category_id": [known[name] for name in row["item_id"]], "position": [0] * len(row["item_id"])}
    encoded = encode_pages(type(pages).from_pylist(page, schema=pages.schema), vocabulary())
    for n, row in enumerate(page):
        one = page_batch(encoded.slice(n, 1), model.rows)
        place = [rows[name] for name in row["item_id"]]
        found = model.scores(model.person(one), *(torch.from_numpy(x[place].copy()) for x in (codes.astype(np.int64), vectors)))
        apart = (model(one).logits - found).detach()
        torch.testing.assert_close(apart, apart[:1].expand(len(apart)), rtol=0, atol=1e-5)

    books = lake.table("code_books").read_arrow([DAY], ["level", "code", "vector"])
    rows_of_books = np.stack(books.sort_by([("level", "ascending"), ("code", "ascending")])["vector"].to_numpy())
    torch.testing.assert_close(torch.from_numpy(rows_of_books), model.quantiser.books.detach().flatten(0, 1))


def test_an_export_carries_its_lineage_and_is_not_made_again(spark: SparkSession, home: Path) -> None:
    lake, version = filled(spark), registered(home / "made", "two_tower", dim=16)
    table = lake.table("item_side")
    key = {"ds": DAY, "model": version.name, "model_version": "1"}
    made, before = export_version(spark, lake, version, Registry()), table.day(key)
    assert before is not None and before.inputs["version"] == version.uri and before.inputs["run"] == version.run_id
    assert before.counts == {"in": 30, "out": 30} and not lake.table("code_books").exists()
    again = export_version(spark, lake, version, Registry())
    assert again == made and table.day(key) == before
    about = json.loads((made.folder / "export.json").read_text())
    assert about["version"] == version.uri
    assert {"model/weights.safetensors", "model/int8.safetensors", "items.faiss"} <= set(about["files"])
    assert [p.name for p in made.folder.parent.iterdir()] == [made.folder.name]

    side, nearest = item_side(table, DAY, version), Nearest.load(made.folder)
    vectors = np.stack(side["vector"].to_numpy())
    ids, score = nearest.search(vectors[:5], 3)
    best = np.argsort(-(vectors[:5] @ vectors.T), axis=1)[:, :3]
    assert [[side["item_id"].to_pylist()[n] for n in row] for row in best] == ids.tolist()
    assert score == pytest.approx(np.take_along_axis(vectors[:5] @ vectors.T, best, 1), abs=1e-5)
    (made.folder / "items.faiss").write_bytes(b"nothing")
    with pytest.raises(ModelError, match="is missing or damaged; run `moveline export`"):
        Nearest.load(made.folder)


def test_a_model_without_item_vectors_is_a_module_alone(spark: SparkSession, home: Path) -> None:
    lake, version = filled(spark), registered(home / "made", "din", dim=16)
    made = export_version(spark, lake, version, Registry())
    assert made.items == 0 and not lake.table("item_side").exists() and made.int8_bytes < made.table_bytes
    pages = encode_pages(raw_pages(20), vocabulary())
    whole, small = (page_scores(load(made.folder / "model"), pages) for load in (load_artifact, load_quantised))
    assert 0 < np.abs(whole - small).max() < 0.05


def trained(home: Path, folder: Path, processes: int) -> tuple[Path, str]:
    """A run that was stopped after some steps: its folder, and that of its checkpoints."""
    recipe = Recipe.model_validate({"name": f"random{processes}", "source": SOURCE, "models": {
        "tarq": {"dim": 16, "codes": 8, "items_a_batch": 64, "epochs": 1, "warm_up": 3, "dropout": 0.0}}})
    if not (home / "sets").is_dir():
        encoded_set(home / "sets", "pages", 120)
    from feature_store.encoded_set import EncodedSet

    vocabulary().save(home / "words.parquet")
    spec = spec_of(recipe, "tarq", EncodedSet.load(home / "sets"), None, folder, home / "words.parquet", True, None)
    launch(spec.model_copy(update={"stop_after": 8}), processes, "process")
    return folder, spec.checkpoints


def test_a_checkpoint_exports_to_the_scores_of_the_sharded_model(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    run, _ = trained(home, tmp_path / "run", 1)
    pages = encoded_set(tmp_path / "test", "pages", 30, seed=2).read()
    made = export_run(run, "stopped")
    expected = page_scores(load_artifact(run), pages)  # written by the trainer from the sharded model it stopped with
    assert np.abs(page_scores(load_artifact(made.folder / "model"), pages) - expected).max() < 1e-5 and np.std(expected) > 1e-4
    with pytest.raises(ModelError, match="no training run here"):
        export_run(tmp_path, "nothing")


@pytest.mark.drill
def test_a_checkpoint_of_two_ranks_exports_to_the_scores_of_one(home: Path, tmp_path: Path) -> None:
    home.mkdir()
    pages = encoded_set(tmp_path / "test", "pages", 30, seed=2).read()
    found = [page_scores(load_artifact(export_run(trained(home, tmp_path / f"run{n}", n)[0], f"of{n}").folder / "model"), pages)
             for n in (1, 2)]
    assert np.abs(found[0] - found[1]).max() < 1e-4


def test_int8_tables_are_smaller_and_rank_alike() -> None:
    from tests.models.synthetic import ROWS, page_batch

    model, batch = model_class("tarq").build({"dim": 64}, ROWS), page_batch(200)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(12):
        model.set_step(step)
        optimizer.zero_grad()
        terms = model.terms(model(batch), batch)
        terms.over(terms.sums, terms.weights).backward()
        optimizer.step()
    held_out = page_batch(400, 5)
    model.eval()
    size = sum(t.numel() * 4 for t in model.tables.parameters())
    clicked, found = held_out.clicked.numpy(), []
    for own in (model, quantise_tables(model)):
        found.append(weighted_auc(own(held_out).logits.detach().double().numpy(), clicked, np.ones(held_out.items)))
    assert None not in found and found[0] > 0.55 and found[1] == pytest.approx(found[0], abs=1e-3)
    assert sum(t.numel() for n, t in model.state_dict().items() if n.startswith("tables.")) < 0.35 * size
