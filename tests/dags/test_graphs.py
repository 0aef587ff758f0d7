"""The graphs: they import without anything heavy, have the right order, and really run."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
LOOK = """
import json, logging, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(dag_folder=sys.argv[1])
heavy = [m for m in ("pyspark", "torch", "torchrec", "pandas", "mlflow", "deltalake", "petastorm") if m in sys.modules]
order = {d: {t.task_id: sorted(t.downstream_task_ids) for t in dag.tasks} for d, dag in bag.dags.items()}
tasks = [t for dag in bag.dags.values() for t in dag.tasks]
get = lambda t, name: t.partial_kwargs.get(name) if hasattr(t, "partial_kwargs") else getattr(t, name)
daily = bag.dags["moveline_daily"] if "moveline_daily" in bag.dags else None
print("\\n" + json.dumps({
    "errors": {str(k): v for k, v in bag.import_errors.items()}, "heavy": heavy, "order": order,
    "retries": {t.task_id: get(t, "retries") for t in tasks}, "pools": [get(t, "pool") for t in tasks],
    "limits": [str(get(t, "execution_timeout")) for t in tasks], "max_active": [d.max_active_runs for d in bag.dags.values()],
    "start": str(daily and daily.start_date), "end": str(daily and daily.end_date), "catchup": daily and daily.catchup,
    "outlets": {t.task_id: [a.name for a in get(t, "outlets") or []] for t in tasks},
    "params": {d: sorted(dag.params) for d, dag in bag.dags.items()},
}))
"""


def look(home: Path, **env: str) -> dict:
    """What Airflow sees in the DAG folder, asked in a process of its own."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith(("MOVELINE_", "AIRFLOW"))}
    done = subprocess.run(
        [sys.executable, "-c", LOOK, str(ROOT / "dags")], capture_output=True, text=True, timeout=180, cwd=home,
        env={**keep, "AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "PYTHONPATH": str(ROOT), **env})
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_compact_graphs_import_nothing_heavy_and_build_a_day_in_one_application(tmp_path):
    seen = look(tmp_path, MOVELINE_CONF=str(ROOT / "conf" / "simulated.yaml"))
    assert seen["errors"] == {} and seen["heavy"] == []
    assert seen["order"] == {
        "moveline_daily": {"tables": ["publish"], "publish": []},
        "train_models": {"choose": ["choose_later", "train_model"], "choose_later": ["train_after_generator"],
                         "train_model": ["train_after_generator"], "train_after_generator": []},
        "ablate": {"plan": ["arm"], "arm": ["collect"], "collect": []},
        "deploy_model": {"choose": ["deploy"], "deploy": []},
        "rollback": {"back": []}, "watch_models": {"look": []}, "upkeep": {"upkeep": []},
        "unseen": {"plan": ["run"], "run": ["collect"], "collect": []},
        "decide_models": {"decide": []},
    }
    # A rollback that is tried again would go back twice; what is refused, or out of its limits, stays so.
    assert {task: n for task, n in seen["retries"].items() if n != 2} == {"back": 0, "deploy": 0, "look": 0}
    # Whatever may change a champion starts `deploy_model`.
    models, tables = ["moveline_models"], ["moveline_tables"]
    assert {task: names for task, names in seen["outlets"].items() if names} == {
        "publish": tables, "train_model": models, "train_after_generator": models, "back": models, "decide": models}
    assert set(seen["pools"]) == {"moveline"} and "None" not in seen["limits"]
    assert set(seen["max_active"]) == {1} and seen["catchup"] is False
    days = yaml.safe_load((ROOT / "conf" / "simulated.yaml").read_text())["days"]
    assert seen["start"].startswith(str(days["first"])) and seen["end"].startswith(str(days["last"]))
    assert seen["params"]["moveline_daily"] == ["conf", "data", "ds"]


def test_the_cluster_graph_has_one_application_a_table_in_the_order_of_their_inputs(tmp_path):
    seen = look(tmp_path, MOVELINE_CONF=str(ROOT / "conf" / "simulated.yaml"), MOVELINE_PROFILE="cluster")
    assert seen["errors"] == {} and seen["heavy"] == []
    after = seen["order"]["moveline_daily"]
    assert set(after["ingest"]) == {"movelines", "vocabulary"}
    assert after["movelines"] == ["visits"] and set(after["visits"]) == {"pages", "flows"} and after["pages"] == ["pairs"]
    assert after["pairs"] == after["flows"] == after["vocabulary"] == ["publish"]


def test_a_wrong_recipe_is_the_import_error_of_the_graph(tmp_path):
    (tmp_path / "bad.yaml").write_text("name: bad\nsourc: {}\n")
    errors = look(tmp_path, MOVELINE_CONF=str(tmp_path / "bad.yaml"))["errors"]
    assert errors and all("bad.yaml: " in text for text in errors.values())


class Started:
    """A dag run as templates see it."""

    def __init__(self, conf=None, partition_key=None, start=None):
        self.conf, self.partition_key, self.data_interval_start = conf, partition_key, start


def test_the_day_of_a_run_is_its_conf_else_its_partition_else_its_interval(dag_modules):
    from datetime import UTC, datetime

    common, _ = dag_modules
    start = datetime(2026, 5, 3, tzinfo=UTC)
    assert common.day_of(Started({"ds": "2026-05-01"}, "2026-05-02", start)) == "2026-05-01"
    assert common.day_of(Started({}, "2026-05-02", start)) == "2026-05-02"
    assert common.day_of(Started(None, None, start)) == "2026-05-03"
    with pytest.raises(ValueError, match="trigger it with the parameter `ds`"):
        common.day_of(Started())


def test_a_log_that_still_grows_catches_up_and_a_closed_one_does_not(dag_modules):
    from datetime import date

    from feature_store.recipe import load_recipe

    common, _ = dag_modules
    recipe = load_recipe(ROOT / "conf" / "simulated.yaml")
    assert not common.catches_up(recipe, date.fromordinal(recipe.days.last.toordinal() + 1))
    assert common.catches_up(recipe, recipe.days.first)
    growing = recipe.model_copy(update={"days": recipe.days.model_copy(update={"last": None})})
    assert common.catches_up(growing) and common.bounds(growing) == (common.bounds(recipe)[0], None)
    assert not common.catches_up(recipe.model_copy(update={"days": None}))


def test_training_takes_the_newest_event_that_has_a_fingerprint(dag_modules):
    _, train = dag_modules
    events = [SimpleNamespace(timestamp=n, extra=extra) for n, extra in
              enumerate([{"fingerprint": "old"}, {"fingerprint": "new"}, {}, None])]
    assert train.newest_event(events) == {"fingerprint": "new"}
    assert train.newest_event([]) is None


def test_what_reads_a_generator_is_trained_after_all_others(dag_modules):
    from feature_store.recipe import Recipe

    _, train = dag_modules
    recipe = Recipe.model_validate({
        "name": "x", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]},
        "models": {"amen": {"generator": "nif"}, "din": {}, "nif": {}}})
    assert train.in_order(recipe, ["amen", "din", "nif"]) == (["din", "nif"], ["amen"])
    assert train.in_order(recipe, ["amen"]) == ([], ["amen"])


@pytest.fixture(scope="module")
def dag_modules(tmp_path_factory):
    """The DAG modules, imported into this process with a state folder of Airflow's own."""
    before = dict(os.environ)
    os.environ.update(AIRFLOW_HOME=str(tmp_path_factory.mktemp("airflow")), MOVELINE_CONF=str(ROOT / "conf" / "simulated.yaml"))
    try:
        from dags import common, train_models
    finally:
        os.environ.clear()
        os.environ.update(before)
    return common, train_models
