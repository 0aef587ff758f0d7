"""Both graphs once, under a real scheduler: two simulated days, a trained and registered model, then nothing left running."""

import json
import os
import re
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import yaml

from feature_store.home import lake_root
from feature_store.tables import Lake
from jobs import inspect_lake, inspect_models, processes, services
from models import ledger

ROOT = Path(__file__).resolve().parents[2]
TABLES = ("events", "exposures", "movelines", "visits", "pages", "pairs", "flows", "vocabulary")


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


@dataclass(frozen=True)
class Ran:
    """A finished `moveline demo`: its state folder, its recipe, what it printed."""

    home: Path
    recipe: Path
    printed: str


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ran]:
    home = tmp_path_factory.mktemp("demo")
    recipe = tiny(home)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(home))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)  # MLflow leaves in it what an earlier test has used
        done = moveline("demo", "--conf", str(recipe), "--plain")
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-2000:]
        yield Ran(home, recipe, done.stdout)


def moveline(*arguments: str, **further: str) -> subprocess.CompletedProcess[str]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW__")}
    return subprocess.run([sys.executable, "-m", "jobs.main", *arguments], cwd=ROOT, env=keep | further, capture_output=True,
                          text=True, check=False)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_both_graphs_run_under_a_real_scheduler_and_register_a_champion(ran: Ran) -> None:
    # One Airflow run a day, each with its tables; training started once, by the asset, when its two days were there.
    assert ran.printed.count("tables: success") == 2
    assert ran.printed.count("publish: skipped") == 1 and ran.printed.count("publish: success") == 1
    assert ran.printed.count("choose: success") == 1 and len(re.findall(r"train_model \S+: success", ran.printed)) == 1

    lake = Lake(lake_root("tiny"))
    overview = {r["table"]: r for r in inspect_lake.overview(lake)}
    for name in TABLES:
        assert overview[name]["days"] == 2, name
        assert name in ran.printed
    version, = inspect_models.versions()
    assert version["model"] == "tiny-din" and version["alias"] == "champion" and version["fingerprint"]
    assert {r["metric"] for r in inspect_models.beside_baselines(version)} >= {"auc", "log_loss"}
    for said in ("popularity", "base rate", "rejected", "champion", "moveline up", "http://127.0.0.1:"):
        assert said in ran.printed, said

    only, = ledger.read(model="tiny-din")
    assert (only.action, only.to_version) == ("promote", 1) and ", train_models " in only.by
    assert version["tags"]["gate.mode"] == "dry_run"

    assert processes.marked(str(ran.home)) == [] and services.running() is None
    assert not (ran.home / "services.json").exists()
    again = moveline("untrained", "--conf", str(ran.recipe), "--fingerprint", version["fingerprint"], "--json")
    assert json.loads(again.stdout) == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_benchmark_finds_every_second_of_the_run_in_airflows_records(ran: Ran) -> None:
    done = subprocess.run([sys.executable, "benchmarks/end_to_end.py", "--home", str(ran.home)], cwd=ROOT, capture_output=True,
                          text=True, check=False, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.stdout, done.stderr[-2000:]  # exit code 1 says that a run as small as this one is mostly start-up
    found = json.loads(done.stdout.splitlines()[-1])
    with sqlite3.connect(ran.home / "airflow" / "airflow.db") as database:
        whole, = database.execute("select 86400 * (julianday(max(t.end_date)) - julianday(b.created_at)) "
                                  "from task_instance t, backfill b").fetchone()
    kinds = ("scheduling", "airflow", "start", "stop", "tables", "encode", "train", "judge", "register")
    assert found["seconds"] == pytest.approx(whole, abs=0.2)
    assert sum(found[kind] for kind in kinds) == pytest.approx(whole, abs=1.0) and all(found[kind] > 0 for kind in kinds)
    assert set(found["tables_by_name"]) == {*TABLES, "items", "pair_counts"}
    for line in ("tables 2026-03-02", "publish 2026-03-03", "choose_later", "train_model din"):
        assert line in done.stdout, line


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_same_days_without_airflow_in_one_spark_session_are_the_same_tables(ran: Ran) -> None:
    done = moveline("daily", "--conf", str(ran.recipe), MOVELINE_LAKE=str(ran.home / "by_hand"))
    assert done.returncode == 0, done.stderr[-2000:]
    lake, other = Lake(lake_root("tiny")), Lake(str(ran.home / "by_hand" / "tiny"))
    days = lake.table("events").days()
    for name in (*TABLES, "pair_counts"):
        assert lake.table(name).digests(days) == other.table(name).digests(days), name
