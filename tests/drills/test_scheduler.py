"""Kill -9 of Airflow's scheduler in the middle of a run, and one day asked for twice: a real Airflow on the small shop."""

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import httpx
import psutil
import pytest
import yaml

from jobs import airflow_env, doctor, processes, services
from jobs.airflow_api import AirflowApi, AirflowError, BusyError
from tests.drills import shop
from tests.drills.conftest import Calm
from tests.drills.shop import ONE, TWO, Recovery

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(900)]
DAG = "moveline_daily"
PATIENCE_S = 400.0


@pytest.fixture
def conf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The shop with an end, so that nothing is scheduled by itself; its services are stopped afterwards."""
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    for name in ("MLFLOW_TRACKING_URI", "MOVELINE_LAKE"):
        monkeypatch.delenv(name, raising=False)
    path = shop.recipe(tmp_path)
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "days": {"first": ONE, "last": TWO}}))
    try:
        yield path
    finally:
        services.down()


def wait_until(seen: Callable[[], bool]) -> None:
    limit = time.monotonic() + PATIENCE_S
    while not seen():
        assert time.monotonic() < limit, "it did not happen in time"
        time.sleep(0.5)


def ask_for(url: str, run: str) -> str:
    """Ask for a run of the day by this name, until SQLite has let it be written: nothing, or what Airflow has against it."""
    limit = time.monotonic() + PATIENCE_S
    while True:
        try:
            AirflowApi(url).call("POST", f"/dags/{DAG}/dagRuns", {"dag_run_id": run, "logical_date": None, "conf": {"ds": ONE}})
        except BusyError:
            assert time.monotonic() < limit, "Airflow's database stays busy"
            time.sleep(0.5)
        except AirflowError as error:
            return str(error)
        else:
            return ""


def assert_closed_to_others(found: services.Services) -> None:
    """Nothing listens but on this machine, and Airflow's page and its API let nobody in without the password."""
    found_open = [connection.laddr for process in processes.marked(os.environ["MOVELINE_HOME"])
                  for connection in process.net_connections("inet") if connection.status == psutil.CONN_LISTEN]
    listening = {(address.ip.removeprefix("::ffff:"), address.port) for address in found_open}
    assert len(listening) >= 2 and {ip for ip, _ in listening} == {"127.0.0.1"}, listening
    assert httpx.get(f"{found.airflow}/api/v2/dags", timeout=20).status_code == 401
    wrong = httpx.post(f"{found.airflow}/auth/token", json={"username": "admin", "password": "admin"}, timeout=20)
    assert wrong.status_code == 401


def assert_no_secret_in_a_log(home: Path) -> None:
    """Neither the password nor a key stands in what services and tasks have logged."""
    secrets = [path.read_text().strip() for path in airflow_env.airflow_home().glob(".*_secret")]
    secrets.append(json.loads(airflow_env.password_file().read_text())["admin"])
    logs = [path for folder in (home / "logs", airflow_env.airflow_home() / "logs") for path in folder.rglob("*") if path.is_file()]
    assert len(secrets) == 3 and any("tables" in str(path) for path in logs)
    assert [path for path in logs if any(secret in path.read_text(errors="replace") for secret in secrets)] == []


def test_a_scheduler_killed_in_the_middle_of_a_run_loses_nothing_and_a_day_asked_for_twice_is_built_once(
        calm: Calm, conf: Path, recovery: Recovery) -> None:
    found = services.up(conf, str(calm.raw), lambda _: None)
    assert_closed_to_others(found)
    api = AirflowApi(found.airflow)
    api.pause(DAG, False)
    with ThreadPoolExecutor(2) as pool:
        said = sorted(pool.map(partial(ask_for, found.airflow), ["first", "first"]))
    assert said[0] == "" and "409" in said[1]
    assert ask_for(found.airflow, "twin") == ""

    def state(run: str) -> str:
        return str(api.call("GET", f"/dags/{DAG}/dagRuns/{run}")["state"])

    # In the middle: some tables of the day are there, others are not.
    wait_until(lambda: shop.digests(ONE)["movelines"] != "absent")
    assert_closed_to_others(found)  # with Spark's driver, its JVM and its Python among them
    running = services.running()
    assert running is not None
    os.kill(running.pids["scheduler"][0], signal.SIGKILL)
    assert shop.digests(ONE)["flows"] == "absent" and state("first") == "running" and state("twin") == "queued"
    wait_until(lambda: services.running() is None)
    assert [f.fix for f in doctor._services() if f.about == "services"] == ["`moveline down` ends them"]

    with recovery("Airflow's scheduler killed in a run: `moveline up`, until the run is done"):
        api = AirflowApi(services.up(conf, str(calm.raw), lambda _: None).airflow)
        wait_until(lambda: state("first") in ("success", "failed"))
    assert state("first") == "success"
    assert shop.digests(ONE) == calm.digests[ONE]
    versions = {name: shop.lake().table(name).version() for name in shop.TABLES}
    tries = {t["task_id"]: t["try_number"] for t in api.tasks(DAG, "first")}
    assert 2 <= tries["tables"] <= 3  # a try that had begun when the scheduler was killed may count

    assert_no_secret_in_a_log(Path(os.environ["MOVELINE_HOME"]))
    wait_until(lambda: state("twin") in ("success", "failed"))
    assert state("twin") == "success" and {name: shop.lake().table(name).version() for name in shop.TABLES} == versions
