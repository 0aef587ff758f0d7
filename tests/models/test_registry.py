"""A real MLflow on SQLite."""

from pathlib import Path

import mlflow
import numpy as np
import pytest
from safetensors.numpy import load_file

from feature_store.errors import ModelError
from models.registry import Registry, load, requirements
from tests.models.registered import candidate, example


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("state")


@pytest.fixture(autouse=True)
def at_home(state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVELINE_HOME", str(state))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


@pytest.fixture(scope="module")
def candidates(state: Path) -> dict[str, Path]:
    return {name: state / "made" / name for name in ("din", "item2vec")}


def test_a_version_carries_signature_example_weights_vocabulary_and_tags(candidates: dict[str, Path], tmp_path: Path) -> None:
    registry = Registry()
    made = registry.register(candidate(candidates["din"]))
    found = registry.versions("small-din")
    assert [v.version for v in found] == [1] and found[0] == made
    assert made.tags == {"day": "2026-05-01", "fingerprint": "f1"}
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'another.db'}")  # as in a process that logged elsewhere, or nothing yet
    folder = registry.folder(made)
    assert set(load_file(folder / "weights.safetensors")) and (folder / "vocabulary.parquet").is_file()
    root = folder.parents[1]
    assert "torch==2.13.0" in (root / "requirements.txt").read_text() and "+cpu" not in (root / "requirements.txt").read_text()
    assert (root / "input_example.json").is_file()
    assert not [p.name for p in root.rglob("*") if p.suffix in (".pkl", ".pt", ".pickle", ".bin")]
    assert registry.metrics(made)["test.model.auc"] == 0.6
    signature = load(made.uri).metadata.signature
    assert "moveline_item" in signature.inputs.input_names() and signature.outputs.input_names() == ["scores"]


def test_a_fingerprint_is_registered_once(candidates: dict[str, Path]) -> None:
    registry = Registry()
    first = registry.register(candidate(candidates["din"]))
    assert registry.register(candidate(candidates["din"])).version == first.version
    second = registry.register(candidate(candidates["din"], fingerprint="f2"))
    assert second.version == first.version + 1
    assert registry.find("small-din", "f2") == second and registry.find("small-din", "never") is None


def test_an_alias_moves_and_says_why(candidates: dict[str, Path]) -> None:
    registry = Registry()
    first, second = (registry.register(candidate(candidates["din"], fingerprint=f)) for f in ("f1", "f2"))
    registry.set_alias(first, reason="first model")
    assert registry.by_alias("small-din") is not None and registry.by_alias("small-din").version == first.version  # type: ignore[union-attr]
    registry.set_alias(second, reason="no gate yet")
    champion = registry.by_alias("small-din")
    assert champion is not None and champion.version == second.version and champion.tags["alias.champion"] == "no gate yet"
    assert registry.by_alias("nobody") is None


def test_item_vectors_are_registered_and_score_pairs(candidates: dict[str, Path]) -> None:
    made = Registry().register(candidate(candidates["item2vec"], "item2vec"))
    assert np.isfinite(load(made.uri).predict(example("item2vec"))["score"]).all()


def test_what_is_not_there_is_said_in_one_line(tmp_path: Path, candidates: dict[str, Path]) -> None:
    with pytest.raises(ModelError, match=r"models:/nobody@champion: .*; `moveline models` lists what is registered"):
        load("models:/nobody@champion")
    broken = candidate(candidates["din"], fingerprint="f9")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="no model here"):
        Registry().register(type(broken)(broken.name, broken.experiment, tmp_path / "empty", "f9", broken.example))
    assert Registry().find(broken.name, "f9") is None


def test_requirements_are_pinned_without_local_labels() -> None:
    assert all("==" in line and "+" not in line for line in requirements())
