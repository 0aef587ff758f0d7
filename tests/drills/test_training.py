"""A training rank is killed in the middle of an epoch: the run goes on from its checkpoint and ends as if nothing had happened."""

import json
import threading
import time
from pathlib import Path

import psutil
import pytest
import torch

from feature_store.errors import ModelError
from feature_store.recipe import Recipe
from jobs.train import spec_of, train
from models.artifact import load_weights
from models.checkpoint import Checkpoints
from tests.drills.shop import Recovery
from tests.models.encoded import encoded_set

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]
PATIENCE_S = 180.0
MARK = 123.0
"""A loss that no step has: written into a checkpoint, it says later that training went on from there."""

RECIPE = Recipe.model_validate({
    "name": "random", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]},
    "models": {"din": {"items_a_batch": 32, "epochs": 4, "learning_rate": 5e-4, "table_learning_rate": 0.01}}})


def rank(number: int) -> psutil.Process | None:
    """The process of a rank below this one."""
    for process in psutil.Process().children(recursive=True):
        try:
            if process.environ().get("RANK") == str(number):
                return process
        except psutil.Error:
            continue
    return None


def mark(progress: Path) -> None:
    """Make `MARK` the first loss that a checkpoint has."""
    found = json.loads(progress.read_text())
    found["losses"][0] = MARK
    progress.write_text(json.dumps(found))


def test_a_rank_killed_in_mid_epoch_costs_the_epoch_and_nothing_else(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovery: Recovery) -> None:
    sets = encoded_set(tmp_path / "train", "pages", 600), encoded_set(tmp_path / "validate", "pages", 60, seed=1)
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "calm"))
    calm = train(RECIPE, "din", *sets, tmp_path / "calm" / "model")
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    out = tmp_path / "var" / "model"
    checkpoints = Checkpoints(spec_of(RECIPE, "din", *sets, out, None, True, None).checkpoints)
    raised: list[Exception] = []

    def attempt() -> None:
        try:
            train(RECIPE, "din", *sets, out, processes=2)
        except ModelError as error:
            raised.append(error)

    run = threading.Thread(target=attempt)
    run.start()
    limit = time.monotonic() + PATIENCE_S
    while checkpoints.newest() is None:
        assert run.is_alive() and time.monotonic() < limit, raised
        time.sleep(0.01)
    time.sleep(0.2)
    victim = rank(1)
    assert victim is not None
    victim.kill()
    run.join(PATIENCE_S)
    assert [str(e) for e in raised] == [
        "model din: one of its 2 processes ended (exit code 1); run it again, it goes on from its newest checkpoint"]
    newest, steps = checkpoints.newest(), len(calm.losses)
    assert newest is not None and json.loads((newest / "progress.json").read_text())["step"] < steps
    assert not (out / "model.json").is_file() and rank(0) is None and rank(1) is None
    mark(newest / "progress.json")

    with recovery("training: a rank killed in mid-epoch"):
        after = train(RECIPE, "din", *sets, out, processes=2)
    assert after.losses[0] == MARK, "it began anew"
    assert after.losses[1:] == pytest.approx(calm.losses[1:], abs=1e-4) and len(after.losses) == steps
    for kind in ("model", "fused"):
        one, other = (getattr(load_weights(found.folder), kind) for found in (calm, after))
        for name, tensor in one.items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-3, atol=1e-3)
