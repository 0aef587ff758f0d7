"""`moveline train_model` killed with -9 at every stage, in turn; then one version is registered, as if nothing had happened."""

import shutil
import sqlite3
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from feature_store.home import cache_root
from models import ledger
from models.artifact import WEIGHTS, load_weights
from models.registry import CHAMPION, Registry
from tests.drills.command import begun, done, killed_when, small, submit
from tests.drills.shop import Recovery


def there(folder: Path, pattern: str) -> bool:
    return any(folder.glob(pattern))


def registered(home: Path) -> bool:
    """Whether MLflow's database has a version, which then has no alias yet."""
    try:
        with sqlite3.connect(f"file:{home / 'mlflow.db'}?mode=ro", uri=True) as database:
            return bool(database.execute("select count(*) from model_versions").fetchone()[0])
    except sqlite3.OperationalError:
        return False  # not made yet


def stages(home: Path) -> dict[str, Callable[[], bool]]:
    """When a run has just begun what is named: the file or the row that it leaves first."""
    files = {"encoding": "encoded/**/*.parquet", "a checkpoint": "checkpoints/*/partial-step-*",
             "the artifact": f"runs/*/model/{WEIGHTS}", "the evaluation": "runs/*/model/model.json", "the report": "runs/*/*.html"}
    seen = {name: partial(there, home / "cache" / "small", pattern) for name, pattern in files.items()}
    return {**seen, "the alias": partial(registered, home)}


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(1500)
def test_a_training_killed_at_every_stage_registers_one_version_as_if_nothing_had_happened(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovery: Recovery) -> None:
    recipe = str(small(tmp_path, users=150, last="2026-03-03", models={"din": {"epochs": 3}}, gate={"mode": "disabled"},
                       split={"train_days": 1, "test_days": 1, "validate_hours": 6}))
    calm, hurt, train = tmp_path / "calm", tmp_path / "hurt", ("train_model", "din", "--conf", recipe)
    for command in ("simulate", "daily"):
        done(calm, command, "--conf", recipe)
    shutil.copytree(calm, hurt)
    # Undisturbed, and stage by stage: each an application that goes on from the one before.
    assert "din trained on the window that ends with 2026-03-03" in submit(calm, "train", "din", "--conf", recipe)
    assert '"auc"' in submit(calm, "evaluate", "din", "--conf", recipe, "--json")
    assert not registered(calm)
    assert "registered in" in submit(calm, "register", "din", "--conf", recipe)
    assert "was registered already" in submit(calm, "register", "din", "--conf", recipe)
    killed = [name for name, seen in stages(hurt).items() if killed_when(begun(hurt, *train), seen)]
    assert len(killed) >= 5, f"runs were over before they could be killed; killed were {killed}"
    with recovery("a training killed at its end: registered and champion (start of Python and Spark included)"):
        done(hurt, *train)

    found = {}
    for home in (calm, hurt):
        monkeypatch.setenv("MOVELINE_HOME", str(home))
        monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
        monkeypatch.delenv("MOVELINE_LAKE", raising=False)
        registry = Registry()
        only, = registry.versions("small-din")
        assert only.aliases == (CHAMPION,)
        assert [(e.from_version, e.to_version) for e in ledger.read(model="small-din")] == [(0, 1)]
        judged = {name: value for name, value in registry.metrics(only).items() if name.startswith("test.")}
        found[home] = judged, load_weights(registry.folder(only)).model
        assert not list(cache_root("small").rglob("partial-*"))
    assert len(found[calm][0]) > 20 and found[hurt][0] == pytest.approx(found[calm][0], abs=1e-4)
    for name, tensor in found[calm][1].items():
        torch.testing.assert_close(found[hurt][1][name], tensor, rtol=1e-3, atol=1e-4)
