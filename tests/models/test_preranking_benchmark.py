"""benchmarks/tarq.py on random pages: what it trains, keeps and prints."""

import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pyarrow as pa
import pytest

from feature_store.contracts import VOCABULARY
from feature_store.recipe import Recipe
from feature_store.vocabulary import Vocabulary
from jobs.train_models import Part
from models import list_metrics
from models.artifact import load_artifact
from models.list_metrics import Lists, kept
from models.scoring import page_scores
from models.tarq import Tarq, teacher_of
from tests.models.encoded import encoded_set

FILE = Path(__file__).resolve().parents[2] / "benchmarks" / "tarq.py"


@pytest.fixture
def benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    monkeypatch.setattr(list_metrics, "AT", (2, 4, 100))
    spec = importlib.util.spec_from_file_location("tarq_benchmark", FILE)
    if spec is None or spec.loader is None:
        raise FileNotFoundError(FILE)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    return module


def recipe() -> Recipe:
    source = {"inputs": {}, "events": [{"from": "a", "columns": {}}]}
    return Recipe.model_validate({"name": "random", "source": source})


@pytest.mark.drill
def test_finished_runs_are_skipped_and_the_report_tells_what_lists_keep(benchmark: ModuleType, tmp_path: Path,
                                                                        capsys: pytest.CaptureFixture[str]) -> None:
    sets = {role: encoded_set(tmp_path / role, "pages", count, seed=n) for n, (role, count) in
            enumerate((("train", 200), ("validate", 60), ("test", 60)))}
    Vocabulary(pa.table({f.name: pa.array([], f.type) for f in VOCABULARY.schema}), 16).save(tmp_path / "words.parquet")
    settings = {"dim": 8, "codes": 8, "items_a_batch": 256, "epochs": 2, "patience": 2, "warm_up": 2, "learning_rate": 0.2}
    lists = encoded_set(tmp_path / "lists", "pages", 80, seed=9).read()
    part = Part(sets, tmp_path / "words.parquet")
    prepared = benchmark.Prepared(part, lists, {"pages": 90, "clicks": 300}, settings, tmp_path / "runs")
    arms = ["two_tower", "tarq", "target_attention"]
    benchmark.train(recipe(), prepared, arms, 2, 60.0)
    assert capsys.readouterr().out.count(" s\n") == 6
    benchmark.train(recipe(), prepared, arms, 2, 60.0)
    assert capsys.readouterr().out == ""
    benchmark.train(recipe(), prepared, arms, 3, 0.0)
    assert "two_tower, seed 3" in capsys.readouterr().out and not prepared.out("two_tower", 3).exists()

    benchmark.report(prepared)
    printed = capsys.readouterr().out
    assert "80 of 90 pages" in printed and "0 longer than 100" in printed and "hit_100" not in printed
    told = json.loads((prepared.out("tarq", 1) / "result.json").read_text())
    own, scores = Lists.of(lists), np.load(prepared.out("tarq", 1) / "lists.npy").astype(np.float64)
    assert told["metrics"]["test.hit_2"] == pytest.approx(list_metrics.hits(own, scores, 2).value)
    model = load_artifact(prepared.out("tarq", 1) / "model")
    assert isinstance(model, Tarq)
    student, teacher = (page_scores(one, lists) for one in (model, teacher_of(model)))
    assert told["metrics"]["test.teacher_2"] == pytest.approx(kept(own, student, teacher, 2).value, abs=1e-3)
    assert told["metrics"]["test.teacher_2"] < 1
    assert len(told["draws"]["hit_4"]) == 200
    first, second = (np.load(prepared.out("target_attention", seed) / "lists.npy").astype(np.float64) for seed in (1, 2))
    across = (kept(own, first, second, 2).value + kept(own, second, first, 2).value) / 2
    row = next(line for line in printed.splitlines() if line.startswith("| target_attention |") and "– | –" in line)
    assert f"{across:.4f}" in row
