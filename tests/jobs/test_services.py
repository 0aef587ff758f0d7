"""Starting and stopping: ports, and that nothing is left behind however it ends."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from jobs import airflow_env, processes, services

ROOT = Path(__file__).resolve().parents[2]
ORPHANS = """
import os, subprocess, sys, time
child = '''import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
time.sleep(600)'''
subprocess.Popen([sys.executable, "-c", child], start_new_session=True)
time.sleep(600)
"""


def wait_for(condition, seconds=60.0):
    stop = time.monotonic() + seconds
    while time.monotonic() < stop:
        if condition():
            return True
        time.sleep(0.2)
    return False


@pytest.fixture
def state(tmp_path, monkeypatch):
    """A state folder of its own; whatever carries its mark is ended afterwards."""
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    yield tmp_path
    processes.end(str(tmp_path), grace_s=0.5)


def test_processes_are_found_and_ended_after_their_parents_were_killed(state):
    parent = subprocess.Popen([sys.executable, "-c", ORPHANS], env={**os.environ, processes.MARK: str(state)})
    assert wait_for(lambda: len(processes.marked(str(state))) == 3)
    parent.kill()
    parent.wait()
    assert len(processes.marked(str(state))) == 2  # a child and a grandchild, each in a session of its own
    assert processes.end(str(state)) == 2
    assert processes.marked(str(state)) == []


def test_processes_of_another_state_folder_are_left_alone(state, tmp_path_factory):
    other = tmp_path_factory.mktemp("other")
    process = subprocess.Popen(["sleep", "600"], env={**os.environ, processes.MARK: str(other)})
    assert wait_for(lambda: len(processes.marked(str(other))) == 1)
    assert services.down() == 0 and process.poll() is None
    assert processes.end(str(other), grace_s=0.1) == 1


def test_a_taken_port_gives_way_to_a_free_one():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert processes.free_port(port) != port
    assert processes.free_port(port) == port


def test_moving_the_port_moves_every_setting_that_depends_on_it(state):
    env = airflow_env.service_env(Path("conf/simulated.yaml"), "", 18080)
    assert env["AIRFLOW__API__PORT"] == "18080"
    assert env["AIRFLOW__API__BASE_URL"] == "http://127.0.0.1:18080"
    assert env["AIRFLOW__CORE__EXECUTION_API_SERVER_URL"] == "http://127.0.0.1:18080/execution/"
    assert env["AIRFLOW__API__HOST"] == "127.0.0.1" and Path(env["AIRFLOW_HOME"]).is_absolute()
    assert "127.0.0.1" in airflow_env.commands(5999)["mlflow"]
    secrets = state / "airflow" / ".jwt_secret"
    assert secrets.stat().st_mode & 0o077 == 0


def test_services_of_another_recipe_are_not_taken_for_ours(state):
    found = services.Services("http://127.0.0.1:1", "http://127.0.0.1:2", "/a/b.yaml", "")
    services.same(found, Path("/a/b.yaml"), "")
    with pytest.raises(services.ServiceError, match=r"already up for /a/b\.yaml; run `moveline down`"):
        services.same(found, Path("/a/c.yaml"), "")


def test_a_state_file_of_dead_processes_is_not_taken_for_running_ones(state):
    dead = subprocess.Popen(["true"])
    dead.wait()
    kept = {"airflow": "http://x", "mlflow": "http://y", "conf": "c", "data": "", "pids": {"scheduler": [dead.pid, time.time()]}}
    services.state_file().write_text(json.dumps(kept))
    assert services.running() is None
    services.state_file().write_text("{half")
    assert services.running() is None and services.down() == 0


def test_a_service_that_does_not_come_up_shows_the_end_of_its_log_and_leaves_nothing(state, monkeypatch):
    broken = [sys.executable, "-c", "print('no such table: dag'); raise SystemExit(3)"]
    sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
    monkeypatch.setattr(services.airflow_env, "commands", lambda port: {
        "mlflow": sleeper, "api-server": sleeper, "scheduler": broken, "dag-processor": sleeper})
    monkeypatch.setattr(services, "_run_once", lambda *_: None)
    with pytest.raises(services.ServiceError, match=r"(?s)scheduler ended while starting.*no such table: dag"):
        services.up(ROOT / "conf" / "simulated.yaml", "", lambda _: None)
    assert processes.marked(str(state)) == [] and services.running() is None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_no_process_behind(state, number):
    """Interrupted while its services start: they, and what they started, are gone when the demo is."""
    recipe = state / "idle.yaml"
    recipe.write_text(json.dumps({"name": "idle", "days": {"first": "2026-03-02", "last": "2026-03-02"},
                                  "source": {"inputs": {}, "events": [{"from": "x", "columns": {}}]}}))
    command = [sys.executable, "-m", "jobs.main", "demo", "--conf", str(recipe), "--data", str(state), "--plain"]
    demo = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert wait_for(lambda: len(processes.marked(str(state))) >= 2), "no service was started"
    time.sleep(3)
    demo.send_signal(number)
    text, _ = demo.communicate(timeout=60)
    assert demo.returncode == 130, text
    assert "stopping what was started" in text and "Traceback" not in text
    assert processes.marked(str(state)) == []


def test_the_login_of_the_page_is_made_here_and_kept_with_the_secrets_in_files_for_the_owner_alone(state):
    env = airflow_env.service_env(ROOT / "conf" / "simulated.yaml", "", 18080)
    password = json.loads(airflow_env.password_file().read_text())["admin"]
    assert len(password) >= 16 and env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS"] == "admin:admin"
    assert "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS" not in env
    files = [airflow_env.password_file(), *airflow_env.airflow_home().glob(".*_secret")]
    assert len(files) == 3 and {f.stat().st_mode & 0o777 for f in files} == {0o600}
    airflow_env.service_env(ROOT / "conf" / "simulated.yaml", "", 18080)
    assert json.loads(airflow_env.password_file().read_text())["admin"] == password
    assert not any(password in " ".join(command) for command in airflow_env.commands(5999).values())


def test_a_password_in_an_address_is_on_no_command_line(state, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:hush@db/mlflow")
    env = airflow_env.service_env(ROOT / "conf" / "simulated.yaml", "", 18080)
    assert not any("hush" in part for command in airflow_env.commands(5999).values() for part in command)
    assert env["MLFLOW_BACKEND_STORE_URI"] == "postgresql://me:hush@db/mlflow"
