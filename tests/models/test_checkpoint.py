import copy
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from feature_store.batch import PageBatch
from feature_store.errors import ModelError
from models.artifact import Weights, load_artifact, load_weights, save_artifact
from models.base import Batch, Model
from models.catalog import CATALOG, model_class
from models.checkpoint import Checkpoints
from models.distributed import process_group
from models.kinds import READS
from models.trainer import Trainer
from tests.models.synthetic import ROWS, PageList, flow_batch, page_batch, pair_batch, unit_flows

TRAIN = [page_batch(16, seed, first_row=16 * seed) for seed in range(8)]
VALIDATE = [page_batch(16, 50)]
SETTINGS = {"epochs": 3, "patience": 3, "dropout": 0.2}
MAKE: dict[str, Callable[..., Batch]] = {"pages": page_batch, "pairs": pair_batch, "flows": flow_batch}
WHOLE: dict[str, dict[str, Any]] = {"amen": {"generator": "nif", "future": 3}}
"""What makes a model read all that it can."""


def fit(folder: Path, stops: list[int | None]) -> tuple[Weights, list[float]]:
    """Train with a fresh process group and trainer after every stop."""
    for stop in stops:
        with process_group() as place:
            trainer = Trainer(model_class("din").build(SETTINGS, ROWS), place, PageList(TRAIN), PageList(VALIDATE), folder)
            trainer.fit(stop_after=stop)
            weights = trainer.weights()
    return weights, trainer.progress.losses


def test_a_stop_in_mid_epoch_and_a_resume_equal_no_stop(tmp_path: Path) -> None:
    expected, losses = fit(tmp_path / "whole", [None])
    found, resumed = fit(tmp_path / "stopped", [3, 8, 1, None])
    assert resumed == pytest.approx(losses, abs=1e-5) and len(losses) == 24
    for kind in ("model", "fused"):
        for name, tensor in getattr(expected, kind).items():
            torch.testing.assert_close(getattr(found, kind)[name], tensor, rtol=1e-5, atol=1e-5)


def test_a_finished_run_is_not_trained_again(tmp_path: Path) -> None:
    first, _ = fit(tmp_path, [None])
    before = Checkpoints(tmp_path).newest()
    second, losses = fit(tmp_path, [None])
    assert Checkpoints(tmp_path).newest() == before and len(losses) == 24
    assert all(torch.equal(first.model[name], second.model[name]) for name in first.model)


def test_only_complete_checkpoints_count_and_old_ones_go(tmp_path: Path) -> None:
    fit(tmp_path, [3, 3])
    newest = Checkpoints(tmp_path).newest()
    assert newest is not None and newest.name == "step-0000000006"
    assert [p.name for p in tmp_path.iterdir()] == [newest.name]
    shutil.copytree(newest, tmp_path / "partial-step-0000000009")
    (tmp_path / "step-0000000010").mkdir()
    assert Checkpoints(tmp_path).newest() == newest


def answer(model: Model, output: Any) -> Tensor:
    """Logits of a model's output, or flows."""
    return (output.flow if model.reads == "flows" else model.logits(output)).detach()


def batches(name: str) -> list[Batch]:
    """Batches of what a model reads; where it reads one, with a flow."""
    made = [MAKE[READS[name]](16, seed) for seed in range(5)]
    for batch in made:
        if isinstance(batch, PageBatch) and "generator" in WHOLE.get(name, {}):
            batch.flow = unit_flows(batch.pages, 3, 32)
    return made


@pytest.mark.parametrize("name", sorted(CATALOG))
def test_an_artifact_answers_like_the_sharded_model_and_keeps_its_vocabulary(tmp_path: Path, name: str) -> None:
    (tmp_path / "words.parquet").write_bytes(b"words")
    *train, held_out = batches(name)
    model = model_class(name).build({"epochs": 1, **WHOLE.get(name, {})}, ROWS)
    untrained = answer(model, copy.deepcopy(model).eval()(held_out))
    with process_group() as place:
        trainer = Trainer(model, place, PageList(train), None, tmp_path / "checkpoints")
        trainer.fit()
        folder = save_artifact(tmp_path / "model", trainer.model, trainer.weights(), tmp_path / "words.parquet", {"note": 1})
        sharded = answer(model, trainer.wrapped.eval()(held_out))
    exported = load_artifact(folder)
    torch.testing.assert_close(answer(exported, exported(held_out)), sharded, rtol=0, atol=1e-5)
    assert (sharded - untrained).abs().max() > 1e-4, "training that changes no answer would prove nothing"
    assert (folder / "vocabulary.parquet").read_bytes() == b"words"


def test_loading_an_artifact_imports_neither_spark_nor_petastorm_and_never_unpickles(tmp_path: Path) -> None:
    model = model_class("din").build({}, ROWS)
    save_artifact(tmp_path / "model", model, Weights(model.state_dict(), {}))
    program = ("import sys, pickle, torch\n"
               "from models.artifact import load_artifact\n"
               "def refuse(*a, **k): raise SystemExit('unpickled')\n"
               "pickle.load = pickle.loads = pickle.Unpickler = torch.load = refuse\n"
               f"load_artifact({str(tmp_path / 'model')!r})\n"
               "print(sorted({m.split('.')[0] for m in sys.modules} & {'pyspark', 'petastorm', 'airflow', 'mlflow'}))\n")
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().splitlines()[-1] == "[]"


def test_a_missing_or_damaged_artifact_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no model here"):
        load_artifact(tmp_path)
    model = model_class("item2vec").build({}, ROWS)
    folder = save_artifact(tmp_path / "model", model, Weights(model.state_dict(), {}))
    (folder / "weights.safetensors").write_bytes(b"not tensors")
    with pytest.raises(ModelError, match="incomplete or damaged"):
        load_weights(folder)


def test_an_unknown_model_lists_those_there_are() -> None:
    with pytest.raises(ModelError, match="no model is called 'dlrm'; the models are amen, ccn, dei2n, dihn, din, item2vec, nif, "
                       "target_attention, tarq, two_tower"):
        model_class("dlrm")


def test_a_checkpoint_is_private_and_one_that_others_may_write_or_own_is_not_read(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fit(tmp_path, [3])
    newest = Checkpoints(tmp_path).newest()
    assert newest is not None and newest.stat().st_mode & 0o777 == 0o700
    newest.chmod(0o770)
    with pytest.raises(ModelError, match="step-0000000003: a checkpoint that somebody else owns or may write is not read"):
        fit(tmp_path, [3])
    newest.chmod(0o700)
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: newest.stat().st_uid + 1)
        with pytest.raises(ModelError, match="delete it, and training begins anew"):
            fit(tmp_path, [3])
    assert len(fit(tmp_path, [3])[1]) == 6
