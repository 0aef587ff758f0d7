"""Graphs that change which version is used, really run (Airflow's `dag.test`) on a real registry."""

import json
import os
import sqlite3
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.home import lake_root
from feature_store.recipe import load_recipe
from feature_store.tables import Lake
from jobs.airflow_env import spark_connection
from jobs.gate import gate
from models import ledger
from models.artifact import Weights, load_artifact, save_artifact
from models.ranker import Ranker
from models.registry import Candidate, Registry, Version
from tests.jobs.test_gate import DAYS, LIMITS, commit_pages, day_of_pages, home_at, made
from tests.jobs.test_watch import CONTENT, with_champion
from tests.models.registered import example

ROOT = Path(__file__).resolve().parents[2]
RUN = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
for dag, conf in json.loads(sys.argv[2]):
    run = DagBag(dag_folder=sys.argv[1]).dags[dag].test(run_conf=conf)
    states = {t.task_id: str(t.state) for t in run.get_task_instances()}
    print("\\nRAN " + json.dumps([str(run.state), states]))
"""
"""Runs graphs one after the other with a conf each, in a process of its own."""


def run_graphs(home: Path, conf: Path, *runs: tuple[str, dict[str, object]]) -> list[tuple[str, dict[str, str], str]]:
    """State of each run and of its tasks, and what the process said up to its end."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MOVELINE_", "AIRFLOW"))}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**keep, **spark_connection(), "PATH": path, "PYTHONPATH": str(ROOT), "AIRFLOW_HOME": str(home / "airflow"),
           "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"), "MOVELINE_HOME": str(home),
           "MOVELINE_CONF": str(conf)}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True, timeout=200)
    done = subprocess.run([sys.executable, "-c", RUN, str(ROOT / "dags"), json.dumps(runs)], env=env, cwd=home, capture_output=True,
                          text=True, timeout=400)
    found = [json.loads(line.removeprefix("RAN ")) for line in done.stdout.splitlines() if line.startswith("RAN ")]
    assert len(found) == len(runs), done.stdout[-3000:] + done.stderr[-3000:]
    return [(state, tasks, done.stdout + done.stderr) for state, tasks in found]


def recorded(home: Path, query: str) -> list[tuple[str, ...]]:
    """What Airflow's database says."""
    with sqlite3.connect(home / "airflow" / "airflow.db") as airflow:
        return airflow.execute(query).fetchall()


def told_of_models(home: Path) -> list[tuple[str, ...]]:
    """Graph and task of each event that starts `deploy_model`."""
    return recorded(home, "select source_dag_id, source_task_id from asset_event join asset on asset.id = asset_id "
                          "where asset.name = 'moveline_models' order by asset_event.id")


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe with three versions of din, each of which was champion."""
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)
    registry = Registry()
    registry.client.create_registered_model("shop-din")
    for n in range(3):
        registry.client.create_model_version("shop-din", f"file:///nowhere/{n}")
    for version in registry.versions("shop-din")[::-1]:
        registry.set_alias(version)
    path = tmp_path / "shop.yaml"
    path.write_text(yaml.safe_dump({
        "name": "shop", "models": {"din": {}},
        "source": {"inputs": {"log": {"path": "log"}}, "events": [{"from": "log", "columns": {}}]}}))
    return path


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_rollback_needs_the_name_twice_and_is_in_the_ledger_with_its_run(tmp_path: Path, conf: Path) -> None:
    given = {"conf": str(conf), "model": "din", "reason": "clicks fell"}
    wrong, right = run_graphs(tmp_path, conf, ("rollback", {**given, "confirm": ""}), ("rollback", {**given, "confirm": "din"}))
    assert (wrong[0], right[0]) == ("failed", "success")
    champion = Registry().by_alias("shop-din")
    assert champion is not None and champion.version == 2
    newest = ledger.read(model="shop-din")[-1]
    assert (newest.entry, newest.action, newest.from_version, newest.to_version) == (4, "rollback", 3, 2)
    assert newest.reason == "clicks fell"
    assert ", rollback " in newest.by
    assert told_of_models(tmp_path) == [("rollback", "back")]


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_recipe_that_spark_refuses_fails_its_task_at_once(tmp_path: Path, conf: Path) -> None:
    (tmp_path / "log").mkdir()
    pq.write_table(pa.table({"user": ["u"]}), tmp_path / "log" / "part.parquet")
    given = {"conf": str(conf), "data": str(tmp_path), "ds": DAYS[0]}
    [(state, tasks, said)] = run_graphs(tmp_path, conf, ("moveline_daily", given))
    assert (state, tasks) == ("failed", {"tables": "failed", "publish": "upstream_failed"}), said[-5000:]
    assert "error: " in said and "source.events[0].columns." in said and "not tried again: the recipe" in said, said[-5000:]
    assert recorded(tmp_path, "select try_number from task_instance where task_id = 'tables'") == [(1,)]


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_day_that_breaks_a_limit_fails_the_graph_that_watches_and_its_log_says_what_to_do(
        spark: SparkSession, tmp_path: Path) -> None:
    with home_at(tmp_path):
        with_champion(spark, tmp_path)
    conf = tmp_path / "small.yaml"
    conf.write_text(yaml.safe_dump(CONTENT))
    given = {"conf": str(conf)}
    fine, broken = run_graphs(tmp_path, conf, ("watch_models", {**given, "ds": DAYS[1]}), ("watch_models", given))
    assert fine[:2] == ("success", {"look": "success"}) and broken[:2] == ("failed", {"look": "failed"})
    said = broken[2]
    for text in (f"error: models:/small-din/1 on {DAYS[2]}: ", "unknown is 1.0000, the limit 0.5", "watch.html shows the last days",
                 "`moveline rollback din` returns to the champion before", "Task look of "):
        assert text in said, said[-5000:]
    assert f"small-din/1 on {DAYS[1]}" not in said


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(900)
def test_a_new_champion_is_deployed_once_and_one_whose_scores_lie_elsewhere_is_refused_with_the_reason(
        spark: SparkSession, tmp_path: Path) -> None:
    conf = tmp_path / "small.yaml"
    conf.write_text(yaml.safe_dump({**CONTENT, "deploy": {"canary_share": 1.0}}))
    given = ("deploy_model", {"conf": str(conf), "ds": DAYS[1]})
    with home_at(tmp_path):
        with_champion(spark, tmp_path)
        first, again = run_graphs(tmp_path, conf, given, given)
        assert first[0] == "success" and first[1]["deploy"] == "success"
        assert again[1]["choose"] == "skipped" and again[1]["deploy"] == "skipped"
        registry = Registry()
        model = load_artifact(tmp_path / "made" / "artifact")
        narrow = {name: tensor * (0.05 if "embeddings" in name else 1) for name, tensor in model.state_dict().items()}
        folder = save_artifact(tmp_path / "narrow", model, Weights(narrow, {}), tmp_path / "made" / "words.parquet")
        other = registry.set_alias(registry.register(Candidate("small-din", "small", folder, "narrow", example())))
        (refused,) = run_graphs(tmp_path, conf, given)
        assert refused[0] == "failed"
        assert f"models:/small-din/{other.version} is not deployed: its scores lie elsewhere" in refused[2], refused[2][-5000:]
        used = registry.by_alias("small-din", "deployed")
        assert used is not None and used.version == 1
        assert [(e.action, e.to_version) for e in ledger.read(model="small-din", alias="deployed")] == [("deploy", 1)]


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_version_that_waits_is_promoted_by_the_graph_when_its_day_is_closed(spark: SparkSession, tmp_path: Path) -> None:
    conf = tmp_path / "small.yaml"
    conf.write_text(yaml.safe_dump({**CONTENT, "gate": {**LIMITS, "wait": True}}))
    with home_at(tmp_path):
        lake, registry, good = Lake(lake_root("small")), Registry(), made(tmp_path / "good", 1)
        days = [day_of_pages(ds, n, Ranker(good)) for n, ds in enumerate(DAYS)]
        for ds, pages in zip(DAYS[:2], days[:2], strict=True):
            commit_pages(spark, lake, ds, pages)

        def version(folder: Path, fingerprint: str) -> Version:
            tags = {"day": DAYS[1], "days": json.dumps({"train": [], "validate": [], "test": [DAYS[1]]})}
            return registry.register(Candidate("small-din", "small", folder, fingerprint, example(), tags=tags))

        registry.set_alias(version(made(tmp_path / "bad", 2), "bad"))
        second = gate(load_recipe(conf), lake, version(good, "good"), registry)
        assert not second.aliases
        commit_pages(spark, lake, DAYS[2], days[2])
        decided, again = run_graphs(tmp_path, conf, *[("decide_models", {"conf": str(conf)})] * 2)
        assert decided[:2] == ("success", {"decide": "success"}) and again[1] == {"decide": "skipped"}
        champion, newest = registry.by_alias("small-din"), ledger.read(model="small-din")[-1]
        assert champion is not None and champion.version == newest.to_version == second.version
        assert newest.reason.startswith(f"gate passed; the first closed days after {DAYS[1]}") and ", decide_models " in newest.by
        assert told_of_models(tmp_path) == [("decide_models", "decide")]
