"""Both graphs once, under a real scheduler: two simulated days, a trained and registered model, then nothing left running."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from feature_store.home import lake_root
from feature_store.tables import Lake
from jobs import inspect_lake, inspect_models, processes, services
from models import ledger

ROOT = Path(__file__).resolve().parents[2]


def tiny(folder: Path) -> Path:
    """The published simulation with few users, and only the model that the others build on."""
    content = yaml.safe_load((ROOT / "conf" / "simulated.yaml").read_text())
    content["name"] = "tiny"
    content["simulator"]["users"] = 200
    content["models"] = {"din": {"epochs": 1}}
    content["gate"] = {"mode": "dry_run"}  # so few users teach no model that a gate would pass
    content["days"]["last"] = "2026-03-03"
    content["split"] = {"train_days": 1, "test_days": 1, "validate_hours": 6}
    path = folder / "tiny.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_both_graphs_run_under_a_real_scheduler_and_register_a_champion(tmp_path, monkeypatch):
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow leaves in it what an earlier test has used
    recipe = tiny(tmp_path)
    keep = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW__")}
    done = subprocess.run([sys.executable, "-m", "jobs.main", "demo", "--conf", str(recipe), "--plain"], cwd=ROOT, env=keep,
                          capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]

    # One Airflow run a day, each with its tables; training started once, by the asset, when its two days were there.
    assert done.stdout.count("tables: success") == 2
    assert done.stdout.count("publish: skipped") == 1 and done.stdout.count("publish: success") == 1
    assert done.stdout.count("choose: success") == 1 and len(re.findall(r"train_model \S+: success", done.stdout)) == 1

    lake = Lake(lake_root("tiny"))
    overview = {r["table"]: r for r in inspect_lake.overview(lake)}
    for name in ("events", "exposures", "movelines", "visits", "pages", "pairs", "flows", "vocabulary"):
        assert overview[name]["days"] == 2, name
        assert name in done.stdout
    version, = inspect_models.versions()
    assert version["model"] == "tiny-din" and version["alias"] == "champion" and version["fingerprint"]
    assert {r["metric"] for r in inspect_models.beside_baselines(version)} >= {"auc", "log_loss"}
    assert "popularity" in done.stdout and "moveline up" in done.stdout

    # The same days without Airflow, in one Spark session, are the same tables.
    by_hand = {**keep, "MOVELINE_LAKE": str(tmp_path / "by_hand")}
    subprocess.run([sys.executable, "-m", "jobs.main", "daily", "--conf", str(recipe)], cwd=ROOT, env=by_hand, check=True)
    days = lake.table("events").days()
    other = Lake(str(tmp_path / "by_hand" / "tiny"))
    assert all(lake.table(name).digests(days) == other.table(name).digests(days) for name in overview if name != "rejects")
    only, = ledger.read(model="tiny-din")
    assert (only.action, only.to_version) == ("promote", 1) and ", train_models " in only.by
    assert version["tags"]["gate.mode"] == "dry_run"

    assert processes.marked(str(tmp_path)) == [] and services.running() is None
    assert not (tmp_path / "services.json").exists()
    again = subprocess.run(
        [sys.executable, "-m", "jobs.main", "untrained", "--conf", str(recipe), "--fingerprint", version["fingerprint"], "--json"],
        cwd=ROOT,
        env=keep,
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(again.stdout) == []
