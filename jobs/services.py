"""Start and stop the local Airflow (scheduler, DAG processor, web page) and MLflow, bound to 127.0.0.1 only."""

import json
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

import httpx
import psutil

from feature_store.errors import MovelineError
from feature_store.home import home
from jobs import airflow_env, processes
from jobs.airflow_api import AirflowApi, NoAnswerError

AIRFLOW_PORT = 8080
MLFLOW_PORT = 5000
_READY_S = 400.0


class ServiceError(MovelineError):
    """Airflow or MLflow cannot be started, reached or stopped."""


@dataclass(frozen=True)
class Services:
    """Running services, as kept in `services.json` of the state folder.

    Attributes
    ----------
    airflow, mlflow : addresses of the pages. conf, data : what the graphs were started for ("" for no data folder).
    pids : name -> (process id, unix time it was created).
    """

    airflow: str
    mlflow: str
    conf: str
    data: str
    pids: dict[str, tuple[int, float]] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Whether every one of the services still runs."""
        return bool(self.pids) and all(processes.alive(*known) for known in self.pids.values())


def state_file() -> Path:
    """File that says what runs."""
    return home() / "services.json"


def log_file(name: str) -> Path:
    """Log of one service."""
    return home() / "logs" / f"{name}.log"


def running() -> Services | None:
    """The services of this state folder, or None when they do not (all) run."""
    if not state_file().is_file():
        return None
    try:
        known = Services(**json.loads(state_file().read_text()))
    except (ValueError, TypeError):
        return None
    return known if known.alive else None


def up(conf: Path, data: str, say: Callable[[str], None]) -> Services:
    """Start everything and wait until it answers; a no-op when it already runs for this recipe.

    Parameters
    ----------
    conf, data : recipe of the graphs, and folder of its raw files (absolute; "" for a simulated log). say : takes a line.

    Raises
    ------
    ServiceError : it runs for another recipe, or a service did not come up; the message carries the tail of its log.
    """
    found = running()
    if found is not None:
        same(found, conf, data)
        return found
    processes.end(str(home()))  # what a killed run left behind would hold the database
    airflow_port = processes.free_port(AIRFLOW_PORT)
    mlflow_port = processes.free_port(MLFLOW_PORT, taken=[airflow_port])
    env = airflow_env.service_env(conf, data, airflow_port)
    for folder in (home() / "artifacts", log_file("any").parent):
        folder.mkdir(parents=True, exist_ok=True)
    airflow, mlflow = (f"http://127.0.0.1:{port}" for port in (airflow_port, mlflow_port))
    services = Services(airflow, mlflow, str(conf.absolute()), data)
    try:
        _start_all(services, env, airflow_env.commands(mlflow_port), say)
        _wait_ready(services, say)
        AirflowApi(services.airflow).ensure_pool(airflow_env.POOL, 1, "one Spark or training job at a time on a small machine")
    except BaseException:
        down()
        raise
    return services


def same(found: Services, conf: Path, data: str) -> None:
    """Raises ServiceError when the services were started for another recipe or folder."""
    if found.conf != str(conf.absolute()) or found.data != data:
        raise ServiceError(
            f"already up for {found.conf} {found.data}".rstrip() + "; run `moveline down` before starting it for another recipe"
        )


def where(found: Services) -> list[str]:
    """Where to look, one line each."""
    return [
        f"Airflow  {found.airflow}  (user admin, password in {airflow_env.password_file()})",
        f"MLflow   {found.mlflow}",
        f"logs     {log_file('scheduler').parent}",
    ]


def _start_all(services: Services, env: dict[str, str], commands: dict[str, list[str]], say: Callable[[str], None]) -> None:
    _start(services, "mlflow", commands["mlflow"], env)
    stamp = airflow_env.airflow_home() / f".migrated-{version('apache-airflow')}"
    if not stamp.is_file():
        say("preparing Airflow's database")
        _run_once("migrate", [*commands["scheduler"][:3], "db", "migrate"], env)
        stamp.touch()
    for name in ("api-server", "scheduler", "dag-processor"):
        say(f"starting {name}")
        _start(services, name, commands[name], env)


def _start(services: Services, name: str, command: list[str], env: dict[str, str]) -> None:
    with log_file(name).open("ab") as log:
        # A session of its own: Ctrl-C in the terminal reaches us, and we end the services in order.
        process = subprocess.Popen(
            command, env=env, cwd=home(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    services.pids[name] = (process.pid, psutil.Process(process.pid).create_time())
    partial = state_file().with_suffix(".tmp")
    partial.write_text(json.dumps(asdict(services), indent=1))
    partial.replace(state_file())


def _run_once(name: str, command: list[str], env: dict[str, str]) -> None:
    with log_file(name).open("ab") as log:
        code = subprocess.run(
            command, env=env, cwd=home(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, check=False
        ).returncode
    if code:
        raise ServiceError(f"`airflow db {name}` failed; its log {log_file(name)} ends with:\n{processes.tail(log_file(name))}")


def _wait_ready(services: Services, say: Callable[[str], None]) -> None:
    waiting: dict[str, Callable[[], bool]] = {
        "MLflow": lambda: httpx.get(f"{services.mlflow}/health", timeout=5).is_success,
        "Airflow's scheduler": lambda: _healthy(services.airflow),
        "the graphs": lambda: AirflowApi(services.airflow).has_dags(["moveline_daily", "train_models"]),
    }
    stop = time.monotonic() + _READY_S
    while waiting:
        for name in list(waiting):
            if _answers(waiting[name]):
                say(f"{name}: ready")
                del waiting[name]
        _check_alive(services)
        if waiting and time.monotonic() > stop:
            logs = "\n".join(f"--- {log_file(n)}\n{processes.tail(log_file(n))}" for n in services.pids)
            raise ServiceError(f"{', '.join(waiting)} did not come up within {_READY_S:.0f} s; the logs end with:\n{logs}")
        time.sleep(0.5)


def _healthy(airflow: str) -> bool:
    parts = httpx.get(f"{airflow}/api/v2/monitor/health", timeout=5).json()
    return all(parts[name]["status"] == "healthy" for name in ("metadatabase", "scheduler", "dag_processor"))


def _answers(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (httpx.HTTPError, NoAnswerError, OSError, KeyError, ValueError):
        return False  # not listening yet


def _check_alive(services: Services) -> None:
    for name, known in services.pids.items():
        if not processes.alive(*known):
            raise ServiceError(
                f"{name} ended while starting; its log {log_file(name)} ends with:\n{processes.tail(log_file(name))}"
            )


def down() -> int:
    """Stop all of this state folder: services, running tasks, their JVMs and workers. Returns how many processes there were."""
    first: list[int] = []
    if state_file().is_file():
        try:
            first = [int(pid) for pid, _ in json.loads(state_file().read_text())["pids"].values()]
        except (ValueError, KeyError, TypeError):
            first = []  # a half-written file: the mark finds them all the same
    count = processes.end(str(home()), first)
    state_file().unlink(missing_ok=True)
    return count
