"""Every job of a day, then train, evaluate and register, each an application of its own under `spark-submit`."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from feature_store.local_spark import LOCAL_SPARK
from models.registry import CHAMPION, Registry
from tests.drills import shop
from tests.drills.command import PATIENCE_S, ROOT, done, small
from tests.drills.conftest import Calm
from tests.drills.shop import ONE

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(900)]
JOBS = ("ingest", "movelines", "vocabulary", "visits", "pages", "pairs", "flows")


def submit(home: Path, *arguments: str) -> str:
    """What an application says on standard output; it must succeed."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MOVELINE_", "MLFLOW_"))}
    settings = [word for key, value in LOCAL_SPARK.items() for word in ("--conf", f"{key}={value}")]
    command = [str(Path(sys.executable).with_name("spark-submit")), "--master", "local[2]", *settings, "jobs/main.py", *arguments]
    ended = subprocess.run(command, cwd=ROOT, env=keep | {"MOVELINE_HOME": str(home), "PYSPARK_PYTHON": sys.executable},
                           capture_output=True, text=True, check=False, timeout=PATIENCE_S)
    assert ended.returncode == 0, ended.stdout[-2_000:] + ended.stderr[-2_000:]
    return ended.stdout


def test_the_jobs_of_a_day_one_application_each_build_the_tables_of_one_session(
        calm: Calm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "var"
    for job in JOBS:
        submit(home, job, "--conf", str(shop.recipe(tmp_path)), "--data", str(calm.raw), "--ds", ONE)
    monkeypatch.setenv("MOVELINE_HOME", str(home))
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)
    assert shop.digests(ONE) == calm.digests[ONE]


def test_train_evaluate_and_register_go_on_from_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = str(small(tmp_path, users=150, last="2026-03-03", models={"din": {"epochs": 1}}, gate={"mode": "disabled"},
                       split={"train_days": 1, "test_days": 1, "validate_hours": 6}))
    home = tmp_path / "var"
    for command in ("simulate", "daily"):
        done(home, command, "--conf", recipe)
    assert "din trained on the window that ends with 2026-03-03" in submit(home, "train", "din", "--conf", recipe)
    monkeypatch.setenv("MOVELINE_HOME", str(home))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert Registry().versions("small-din") == []
    assert '"auc"' in submit(home, "evaluate", "din", "--conf", recipe, "--json")
    assert "registered in" in submit(home, "register", "din", "--conf", recipe)
    only, = Registry().versions("small-din")
    assert only.aliases == (CHAMPION,)
    assert "was registered already" in submit(home, "register", "din", "--conf", recipe)
