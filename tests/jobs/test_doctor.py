"""What the doctor sees of a state folder in which things went wrong, and that it changes nothing."""

import json
import os
import socket
import time
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from feature_store.home import lake_root
from feature_store.tables import Lake
from jobs import cli, doctor, preflight, services
from models.registry import CHAMPION, Registry
from tests.jobs.naive import DAY, event, frame


@pytest.fixture(autouse=True)
def at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)


def about(name: str) -> list[doctor.Finding]:
    return [f for f in doctor.examine() if f.about == name]


def test_an_empty_state_folder_needs_nothing() -> None:
    assert [f.about for f in doctor.examine() if f.fix and f.about not in ("disk", "packages")] == []
    assert "nothing is registered yet" in [f.says for f in about("registry")]


def test_left_files_and_runs_and_an_alias_set_elsewhere_are_found(spark: SparkSession, tmp_path: Path) -> None:
    table = Lake(lake_root("shop")).table("events")
    table.begin(DAY).commit(frame(spark, "events", [event("u", 1)]), counts={}, inputs={})
    left = Path(table.path) / f"ds={DAY}" / "run=killed" / "part.parquet"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"x" * 10)
    os.utime(left, (time.time() - 2 * 86_400,) * 2)
    registry = Registry()
    began = int((time.time() - 2 * 86_400) * 1000)
    run = registry.client.create_run(registry.experiment("shop"), start_time=began)
    registry.client.create_registered_model("shop-din")
    for n in range(2):
        registry.client.create_model_version("shop-din", f"file:///nowhere/{n}")
    registry.set_alias(registry.versions("shop-din")[0])
    assert about("aliases") == []
    registry.client.set_registered_model_alias("shop-din", CHAMPION, "1")

    (tables,), (runs,), (aliases,) = about("tables"), about("runs"), about("aliases")
    assert tables.says.startswith("shop: 1 files of runs that were cut short") and "moveline daily" in tables.fix
    assert run.info.run_id in runs.says and runs.says.startswith("1 runs began") and runs.fix
    assert aliases.says == "shop-din: champion stands on version 1, the ledger says 2" and aliases.fix
    assert left.is_file() and table.clean_orphans() == [str(left)] and about("tables")[0].fix == ""


def test_a_machine_that_does_not_fit_is_named_with_the_fix(
        monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(preflight, "java_version", lambda: 11)
    monkeypatch.setattr(doctor, "LEAST_FREE", 2**70)
    monkeypatch.setattr(doctor, "version", lambda name: "0.0.1")
    services.state_file().write_text("{}")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        monkeypatch.setattr(services, "AIRFLOW_PORT", taken.getsockname()[1])
        cli._load_commands()
        assert cli.app(["doctor", "--json"], standalone_mode=False) == 1
    found = {f["about"]: f for f in json.loads(capsys.readouterr().out)}
    assert "Java 17 or 21 is needed" in found["java"]["fix"] and "make clean" in found["disk"]["fix"]
    assert "pyspark 0.0.1 (needs ==" in found["packages"]["says"] and found["packages"]["fix"].startswith("run `make env`")
    assert "`moveline down`" in found["services"]["fix"] and "is taken by something else" in found["ports"]["says"]
