"""One and two real processes on the same data: the same global batches, so the same losses."""

from pathlib import Path

import pytest
import torch
from pyspark.sql import SparkSession

from feature_store.errors import ModelError
from feature_store.recipe import Recipe
from jobs.train import Launcher, TrainResult, launch, spec_of, train
from models.artifact import Weights, load_artifact, load_weights, save_artifact
from tests.models.encoded import encoded_set
from tests.models.registered import artifact

SOURCE = {"inputs": {}, "events": [{"from": "a", "columns": {}}]}


def recipe(**models: dict) -> Recipe:
    return Recipe.model_validate({"name": "random", "source": SOURCE, "models": models})


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))


def assert_same(one: TrainResult, two: TrainResult) -> None:
    assert len(one.losses) >= 50 and len(one.losses) == len(two.losses)
    assert two.losses[:50] == pytest.approx(one.losses[:50], abs=1e-4)
    assert sum(two.losses[-10:]) < sum(two.losses[:10])
    first, second = load_weights(one.folder).model, load_weights(two.folder).model
    assert all(torch.allclose(first[name], second[name], atol=2e-2) for name in first)


def test_din_on_spark_with_two_processes_equals_one(tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = recipe(din={"items_a_batch": 64, "epochs": 1})
    sets = encoded_set(tmp_path / "train", "pages", 800), encoded_set(tmp_path / "validate", "pages", 60, seed=1)
    one = train(conf, "din", *sets, tmp_path / "one")
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "other"))
    two = train(conf, "din", *sets, tmp_path / "two", processes=2, launcher="spark")
    assert_same(one, two)
    assert two.history[0]["validate_loss"] == pytest.approx(one.history[0]["validate_loss"], abs=1e-3)
    assert load_artifact(two.folder).name == "din"


@pytest.mark.drill
def test_a_run_goes_on_with_another_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One process, stopped, then two, stopped again, then one: the sharded tables, their optimiser and the best epoch go along."""
    conf = recipe(din={"items_a_batch": 64, "epochs": 3, "learning_rate": 5e-4, "table_learning_rate": 0.01})
    sets = encoded_set(tmp_path / "train", "pages", 200), encoded_set(tmp_path / "validate", "pages", 40, seed=1)
    whole = train(conf, "din", *sets, tmp_path / "whole")
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "other"))
    quarter = len(whole.losses) // 4
    spec = spec_of(conf, "din", *sets, tmp_path / "part", None, True, None).model_copy(update={"stop_after": quarter})
    for number, processes in enumerate((1, 2), 1):
        launch(spec, processes, "process")
        assert [p.name for p in Path(spec.checkpoints).iterdir()] == [f"step-{number * quarter:010d}"]
    last = train(conf, "din", *sets, tmp_path / "part")
    assert last.losses == pytest.approx(whole.losses, abs=1e-5) and len(last.losses) > 4 * quarter > 40
    found, expected = ([epoch["validate_loss"] for epoch in result.history] for result in (last, whole))
    assert found == pytest.approx(expected, abs=1e-5) and expected[2] == min(expected)  # the last weights are the kept ones
    for kind in ("model", "fused"):
        one, other = (getattr(load_weights(result.folder), kind) for result in (whole, last))
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-4)


@pytest.mark.drill
@pytest.mark.parametrize("launcher", ["process", "spark"])
def test_item2vec_with_two_processes_equals_one(
        tmp_path: Path, spark: SparkSession, monkeypatch: pytest.MonkeyPatch, launcher: Launcher) -> None:
    conf = recipe(item2vec={"items_a_batch": 64, "epochs": 1})
    pairs = encoded_set(tmp_path / "train", "pairs", 3_600, row_group=200)
    one = train(conf, "item2vec", pairs, None, tmp_path / "one")
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "other"))
    assert_same(one, train(conf, "item2vec", pairs, None, tmp_path / "two", processes=2, launcher=launcher))


@pytest.mark.drill
def test_what_a_rank_raises_is_one_line(tmp_path: Path) -> None:
    pages = encoded_set(tmp_path / "train", "pages", 40)
    with pytest.raises(ModelError, match=r"^model din: setting depth: Extra inputs are not permitted; its settings are dim, "):
        train(recipe(din={"depth": 3}), "din", pages, None, tmp_path / "out", processes=2)


def test_sets_of_the_wrong_kind_and_too_many_processes_are_named(tmp_path: Path) -> None:
    pages = encoded_set(tmp_path / "train", "pages", 40)
    with pytest.raises(ModelError, match=r"model item2vec reads pairs; the set train at .* holds pages"):
        train(recipe(), "item2vec", pages, None, tmp_path / "out")
    with pytest.raises(ModelError, match="1 to 4 can share it"):
        train(recipe(), "din", pages, None, tmp_path / "out", processes=5)


def test_a_warm_start_takes_over_the_champions_rows(tmp_path: Path) -> None:
    pairs = encoded_set(tmp_path / "train", "pairs", 400)
    first = train(recipe(item2vec={"epochs": 1}), "item2vec", pairs, None, tmp_path / "first")
    second = train(recipe(item2vec={"epochs": 1}), "item2vec", pairs, None, tmp_path / "second", warm_from=first.folder)
    assert second.losses[0] < first.losses[0]


def test_a_warm_start_from_other_weights_of_equal_sums_is_another_run(tmp_path: Path) -> None:
    pairs = encoded_set(tmp_path / "train", "pairs", 40)
    folder = artifact(tmp_path, "item2vec")
    runs = []
    for part in ("before", "before", "after"):
        weights = load_weights(folder).model
        if part == "after":
            save_artifact(folder, load_artifact(folder), Weights({name: own.flip(0) for name, own in weights.items()}, {}))
        runs.append(spec_of(recipe(item2vec={}), "item2vec", pairs, None, tmp_path / "out", None, True, folder).checkpoints)
    assert runs[0] == runs[1] != runs[2]
