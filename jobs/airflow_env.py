"""Every setting that the local Airflow and MLflow run with, in one place."""

import json
import os
import secrets
import shutil
import sys
from pathlib import Path

from feature_store.home import home, tracking_uri
from feature_store.local_spark import local_master
from jobs.processes import MARK

REPOSITORY = Path(__file__).resolve().parent.parent
DAGS = REPOSITORY / "dags"
SPARK_CONNECTION = "moveline_spark"
POOL = "moveline"


def airflow_home() -> Path:
    """Airflow's own folder: configuration, database, logs, the generated password."""
    return home() / "airflow"


def password_file() -> Path:
    """Where Airflow's simple auth manager has the password of `admin`."""
    return airflow_home() / "simple_auth_manager_passwords.json.generated"


def service_env(conf: Path, data: str, airflow_port: int) -> dict[str, str]:
    """Environment of every service process; tasks inherit it.

    Parameters
    ----------
    conf : recipe the graphs are made for. data : folder of its raw files (absolute), "" for a simulated log.
    airflow_port : port of the web page and of the API that tasks report to.
    """
    url = f"http://127.0.0.1:{airflow_port}"
    _login()
    env = {k: v for k, v in os.environ.items() if not k.startswith("AIRFLOW__")}
    env.update(_airflow(url, airflow_port), **_jobs(conf, data))
    return env


def _airflow(url: str, port: int) -> dict[str, str]:
    core = {
        "CORE__DAGS_FOLDER": str(DAGS),
        "CORE__LOAD_EXAMPLES": "False",
        "CORE__EXECUTOR": "LocalExecutor",
        # 32 workers are forked by default; this machine has two cores.
        "CORE__PARALLELISM": "2",
        "CORE__EXECUTION_API_SERVER_URL": f"{url}/execution/",  # tasks fail with "connection refused" when only the port is moved
        "CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(password_file()),
        "API__HOST": "127.0.0.1",
        "API__PORT": str(port),
        "API__BASE_URL": url,
        "API__WORKERS": "1",
        "API__SECRET_KEY": _secret("api"),
        "API_AUTH__JWT_SECRET": _secret("jwt"),
        "CORE__FERNET_KEY": "",
        "DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow_home() / 'airflow.db'}",
        # 300 s before a new DAG file is seen is the default.
        "DAG_PROCESSOR__REFRESH_INTERVAL": "10",
        "DAG_PROCESSOR__PARSING_PROCESSES": "1",
        "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": "120",
        # A task whose process was killed is noticed in one minute, not five.
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "10",
        # A scheduler that is started again at once takes the killed one for alive, and would look for its tasks after 300 s only.
        "SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "30",
        "USAGE_DATA_COLLECTION__ENABLED": "False",
        "LOGGING__BASE_LOG_FOLDER": str(airflow_home() / "logs"),
    }
    return {"AIRFLOW_HOME": str(airflow_home()), **spark_connection(), **{f"AIRFLOW__{k}": v for k, v in core.items()}}


def spark_connection() -> dict[str, str]:
    """The connection by which the graphs start Spark on this machine, as Airflow reads it from the environment."""
    extra = {"spark-binary": "spark-submit", "deploy-mode": "client"}
    spark = {"conn_type": "spark", "host": local_master(), "extra": extra}
    return {f"AIRFLOW_CONN_{SPARK_CONNECTION.upper()}": json.dumps(spark)}


def _jobs(conf: Path, data: str) -> dict[str, str]:
    python = os.environ.get("MOVELINE_PYTHON", sys.executable)
    beside = str(Path(python).parent)  # spark-submit, torchrun and airflow of the same environment come first
    env = {
        MARK: str(home()), "MOVELINE_HOME": str(home()), "MOVELINE_CONF": str(conf.absolute()), "MOVELINE_PYTHON": python,
        "PYSPARK_PYTHON": python, "PYSPARK_DRIVER_PYTHON": python, "PATH": os.pathsep.join([beside, os.environ.get("PATH", "")]),
        "PYTHONPATH": os.pathsep.join(p for p in (str(REPOSITORY), os.environ.get("PYTHONPATH", "")) if p),
        # The server takes it from the environment: a command line, and so a password in it, can be seen by all.
        "MLFLOW_TRACKING_URI": tracking_uri(), "MLFLOW_BACKEND_STORE_URI": tracking_uri(), "PYTHONUNBUFFERED": "1",
        "SPARK_LOCAL_IP": "127.0.0.1",
        # Without it a process that renames itself (Airflow's do) overwrites the environment by which we find it again.
        "SPT_NOENV": "1",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    env["MOVELINE_DATA"] = data
    return env


def _secret(name: str) -> str:
    """A random secret, made once and readable by the owner alone."""
    path = airflow_home() / f".{name}_secret"
    if not path.is_file():
        _write_private(path, secrets.token_hex(32))
    return path.read_text()


def _login() -> None:
    """The password of `admin`, made once. One that Airflow made itself would be in its log, and in a file that all may read."""
    path = password_file()
    if path.is_file():
        path.chmod(0o600)
    else:
        _write_private(path, json.dumps({"admin": secrets.token_urlsafe(16)}))


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)
    path.write_text(text)


def commands(mlflow_port: int) -> dict[str, list[str]]:
    """Command line of each service by name. No triggerer is needed, and the scheduler serves no logs: the page reads the files."""
    airflow = [sys.executable, "-m", "airflow"]
    mlflow = [shutil.which("mlflow", path=str(Path(sys.executable).parent)) or "mlflow", "server"]
    artifacts = (home() / "artifacts").as_uri()
    return {
        "mlflow": [*mlflow, "--default-artifact-root", artifacts, "--no-serve-artifacts",
                   "--host", "127.0.0.1", "--port", str(mlflow_port), "--workers", "1"],
        "api-server": [*airflow, "api-server"],
        "scheduler": [*airflow, "scheduler", "--skip-serve-logs"],
        "dag-processor": [*airflow, "dag-processor"],
    }
