"""The command line: what it says, and what it exits with."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from feature_store.errors import ConfigError, InputError
from feature_store.recipe import Recipe
from jobs.run_job import data_folder, days_asked

ROOT = Path(__file__).resolve().parents[2]
RECIPE = {"name": "shop", "source": {"inputs": {"log": {"path": "log.parquet"}},
                                     "events": [{"from": "log", "columns": {"user_id": "user"}}]}}


def moveline(*arguments: str, home: Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the command in a clean environment."""
    keep = {k: v for k, v in os.environ.items() if not k.startswith("MOVELINE_")}
    return subprocess.run([sys.executable, "-m", "jobs.main", *arguments], cwd=ROOT, capture_output=True, text=True,
                          env={**keep, "MOVELINE_HOME": str(home), **env}, timeout=120)


def recipe(**more) -> Recipe:
    return Recipe.model_validate({**RECIPE, **more})


def recipe_file(folder: Path, **more) -> Path:
    path = folder / "shop.yaml"
    path.write_text(json.dumps({**RECIPE, **more}))
    return path


def test_help_names_every_command_and_teaches_by_example(tmp_path):
    text = moveline("--help", home=tmp_path).stdout
    for command in ("simulate", "ingest", "movelines", "visits", "vocabulary", "pages", "pairs", "flows", "daily", "train",
                    "evaluate", "register", "train_model",
                    "run", "up", "down", "tables", "models", "demo"):
        assert f" {command} " in text
    assert "make demo" in text
    assert "Example" in moveline("ingest", "--help", home=tmp_path).stdout


def test_help_loads_no_spark_torch_or_mlflow():
    code = ("import jobs.cli, sys; jobs.cli._load_commands(); "
            "print([m for m in ('pyspark', 'torch', 'mlflow', 'pandas') if m in sys.modules])")
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout.strip() == "[]"


@pytest.mark.parametrize(("arguments", "code", "says"), [
    (["ingest", "--conf", "nope.yaml"], 2, "nope.yaml: no such recipe"),
    (["tables", "sales", "--conf", "RECIPE"], 1, "no table is called 'sales'; the tables are"),
    (["daily", "--conf", "RECIPE", "--ds", "2026-02-30"], 2, "--ds 2026-02-30: day is out of range for month"),
    (["daily", "--conf", "RECIPE"], 2, "recipe shop has no `days`: say which day to build"),
    (["simulate", "--conf", "RECIPE"], 2, "has no `simulator` section"),
    (["run", "--conf", "RECIPE"], 1, "Airflow is not running for this state folder; start it with `moveline up"),
    (["up", "--conf", "RECIPE"], 1, "say where it lies with --data FOLDER"),
    (["injest"], 2, "No such command 'injest'"),
    (["ingest", "--day", "x"], 2, "No such option: --day"),
])
def test_an_error_is_one_line_that_names_the_thing_and_the_fix(tmp_path, arguments, code, says):
    path = str(recipe_file(tmp_path))
    done = moveline(*(path if a == "RECIPE" else a for a in arguments), home=tmp_path)
    assert done.returncode == code
    assert done.stderr.startswith("error: ") and says in done.stderr
    assert done.stderr.count("\n") == 1 and "Traceback" not in done.stderr + done.stdout


def test_warm_starts_and_processes_are_asked_for_on_the_command_line(monkeypatch):
    from jobs import cli, train_models

    asked = []
    monkeypatch.setattr(train_models, "train_model", lambda *given, **named: asked.append((given, named)))
    cli._load_commands()
    cli.app(["train_model", "din", "--conf", "conf/simulated.yaml", "--warm", "--processes", "2"], standalone_mode=False)
    cli.app(["train_model", "din"], standalone_mode=False)
    assert asked == [((Path("conf/simulated.yaml"), "din", None, None), {"processes": processes, "warm": warm})
                     for processes, warm in ((2, True), (1, False))]


def test_models_of_one_recipe_are_listed_alone(monkeypatch, capsys, tmp_path):
    from jobs import cli, inspect_models

    rows = [{"model": name, "version": 1, "alias": "", "day": "", "metrics": ""} for name in ("shop-din", "shop_b-din", "big-din")]
    monkeypatch.setattr(inspect_models, "versions", lambda: rows)
    monkeypatch.delenv("MOVELINE_CONF", raising=False)
    cli._load_commands()
    for arguments, names in (([], ["shop-din", "shop_b-din", "big-din"]), (["--conf", str(recipe_file(tmp_path))], ["shop-din"])):
        cli.app(["models", "--json", *arguments], standalone_mode=False)
        assert [row["model"] for row in json.loads(capsys.readouterr().out)] == names


def test_an_unexpected_error_names_the_job_and_a_log_file_with_the_trace(tmp_path):
    log = tmp_path / "lake" / "shop" / "pages" / "_delta_log" / "00000000000000000000.json"
    log.parent.mkdir(parents=True)
    log.write_text("{not json")
    done = moveline("tables", "--conf", str(recipe_file(tmp_path)), home=tmp_path)
    assert done.returncode == 1 and done.stderr.count("\n") == 1
    assert done.stderr.startswith("error: tables failed unexpectedly: ")
    assert "Traceback" in Path(done.stderr.strip().rsplit(" ", 1)[1]).read_text()


def test_an_empty_lake_says_how_to_fill_it_and_answers_json(tmp_path):
    path = str(recipe_file(tmp_path))
    assert "moveline daily" in moveline("tables", "--conf", path, home=tmp_path).stdout
    assert json.loads(moveline("tables", "--conf", path, "--json", home=tmp_path).stdout) == []


def test_days_are_one_day_a_range_or_all_of_the_recipe():
    bounded = recipe(days={"first": "2026-02-27", "last": "2026-03-01"})
    assert days_asked(bounded, None) == ["2026-02-27", "2026-02-28", "2026-03-01"]
    assert days_asked(bounded, "2026-02-28") == ["2026-02-28"]
    assert days_asked(recipe(), "2026-02-28..2026-03-01") == ["2026-02-28", "2026-03-01"]
    with pytest.raises(ConfigError, match="lies before the first"):
        days_asked(recipe(), "2026-03-02..2026-03-01")
    with pytest.raises(ConfigError, match="2999-01-01 lies in the future"):
        days_asked(recipe(), "2026-03-02..2999-01-01")


def test_a_real_log_needs_a_folder_that_exists(tmp_path):
    with pytest.raises(InputError, match="recipe shop reads a real log"):
        data_folder(recipe(), None)
    with pytest.raises(InputError, match="no such folder"):
        data_folder(recipe(), str(tmp_path / "none"))
    assert data_folder(recipe(), str(tmp_path)) == str(tmp_path)
    assert data_folder(recipe(), "s3a://bucket/logs") == "s3a://bucket/logs"
    assert data_folder(recipe(simulator={}), None).endswith("/raw/shop")
