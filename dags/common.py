"""What both graphs share: the recipe, the day of a run, how a job is started, what to do when a task fails.

Parsed by Airflow every few seconds: nothing here may import Spark, torch or pandas.
"""

import json
import logging
import os
import subprocess
import sys
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

from airflow.providers.apache.spark.operators.spark_submit import SparkSubmitOperator
from airflow.sdk import Asset, Param
from airflow.sdk.exceptions import AirflowException, AirflowFailException

from feature_store.errors import ConfigError
from feature_store.local_spark import local_spark
from feature_store.recipe import Recipe, load_recipe

REPOSITORY = Path(__file__).resolve().parent.parent
MAIN = str(REPOSITORY / "jobs" / "main.py")
CONF = os.environ.get("MOVELINE_CONF", str(REPOSITORY / "conf" / "simulated.yaml"))
DATA = os.environ.get("MOVELINE_DATA", "")
PYTHON = os.environ.get("MOVELINE_PYTHON", sys.executable)
PROFILE = os.environ.get("MOVELINE_PROFILE", "compact")
POOL = "moveline"
SPARK_CONNECTION = "moveline_spark"
ALWAYS = datetime(2020, 1, 1, tzinfo=UTC)

TABLES = Asset(name="moveline_tables", uri="x-moveline://tables", group="moveline")
"""Updated when the days that one training run needs are all built; its events carry the fingerprint of those tables."""

MODELS = Asset(name="moveline_models", uri="x-moveline://models", group="moveline")
"""Updated when a champion may have changed: a model was trained and registered, whatever the gate said, or was rolled back."""

_AS_IT_IS = "not tried again: the recipe or the arguments are wrong, the line above that starts with `error:` says where"


def recipe() -> Recipe:
    """The recipe of MOVELINE_CONF; what is wrong with it shows as the import error of the graph."""
    return load_recipe(CONF)


def bounds(made_for: Recipe) -> tuple[datetime, datetime | None]:
    """First and last moment a run may be for: the recipe's days; no end for a log that still grows."""
    if made_for.days is None:
        return ALWAYS, None
    return _midnight(made_for.days.first), None if made_for.days.last is None else _midnight(made_for.days.last)


def catches_up(made_for: Recipe, today: date | None = None) -> bool:
    """A log that still grows catches up the days it missed; a closed one is built by a backfill, when somebody asks for it."""
    if made_for.days is None:
        return False  # nothing says where it would begin
    return made_for.days.last is None or made_for.days.last >= (today or datetime.now(UTC).date())


def _midnight(day: date) -> datetime:
    return datetime(day.year, day.month, day.day, tzinfo=UTC)


def day_of(dag_run: Any) -> str:
    """The day a run is for: `ds` of its conf, else its partition key, else the start of its data interval.

    Raises
    ------
    ValueError : none of them is set, as in a run triggered without a date; says to give `ds`.
    """
    asked = (dag_run.conf or {}).get("ds") or getattr(dag_run, "partition_key", None)
    if asked:
        return date.fromisoformat(str(asked)).isoformat()
    if dag_run.data_interval_start is None:
        raise ValueError('this run has no date; trigger it with the parameter `ds`, e.g. {"ds": "2026-05-01"}')
    return str(dag_run.data_interval_start.date())


def params() -> dict[str, Param]:
    """Parameters of a run, with their schemas: they make the form on the web page."""
    return {
        "conf": Param(CONF, type="string", minLength=1, description="recipe (YAML file)"),
        "data": Param(DATA, type="string", description="folder of the raw files; empty for a simulated log"),
        "ds": Param(
            None, type=["null", "string"], format="date", description="the day (UTC); empty: the day the run is scheduled for"
        ),
    }


def defaults() -> dict[str, Any]:
    """Settings of every task."""
    return {
        "retries": 2, "retry_delay": timedelta(seconds=10), "retry_exponential_backoff": True,
        "max_retry_delay": timedelta(minutes=10), "execution_timeout": timedelta(hours=2), "pool": POOL,
        "on_failure_callback": say_what_to_do,
    }


def macros() -> dict[str, Any]:
    """Functions that templates of the graphs may call."""
    return {"day_of": day_of}


def asked(params: Any) -> list[str]:
    """The recipe and the day of a run as arguments of a command."""
    return ["--conf", params["conf"], *(["--ds", params["ds"]] if params["ds"] else [])]


class Application(SparkSubmitOperator):
    """One run of `jobs/main.py`. It is not tried again when its recipe or its arguments are wrong: it would fail each time."""

    def execute(self, context: Any) -> None:
        """Submit it and wait."""
        try:
            super().execute(context)
        except AirflowException as error:
            # The operator's hook keeps the exit code of spark-submit in its message alone.
            if f"Error code is: {ConfigError.exit_code}." in str(error):
                raise AirflowFailException(_AS_IT_IS) from error
            raise


def spark_settings() -> dict[str, Any]:
    """Arguments of an `Application`; in the cluster profile memory and cores come from the connection and its defaults."""
    return {
        "application": MAIN, "conn_id": SPARK_CONNECTION,
        "conf": {**local_spark(), "spark.log.level": "WARN"} if PROFILE == "compact" else None,
        "env_vars": {"PYSPARK_PYTHON": PYTHON, "PYSPARK_DRIVER_PYTHON": PYTHON}, "verbose": False,
    }


def spark_job(job: str) -> Application:
    """One task that runs `jobs/main.py JOB` for the run's day."""
    arguments = [job, "--conf", "{{ params.conf }}", "--data", "{{ params.data }}", "--ds", "{{ day_of(dag_run) }}"]
    task = "tables" if job == "daily" else job
    return Application(task_id=task, name=f"moveline-{job}", application_args=arguments, **spark_settings())


def mapped_jobs(task_id: str, name: str, hours: int = 1, called: str = "{{ task.application_args[1] }}", **settings: Any) -> Any:
    """A task that is mapped over the arguments of `jobs/main.py`: one application each, shown as `called` (a template)."""
    given = {**spark_settings(), "execution_timeout": timedelta(hours=hours), **settings}
    return Application.partial(task_id=task_id, name=name, map_index_template=called, **given)


def ask(*arguments: str) -> Any:
    """Answer (JSON) of `moveline ARGUMENTS --json`, run by the jobs' interpreter: Airflow's own needs neither Spark nor MLflow."""
    return json.loads(tell(*arguments, "--json").splitlines()[-1])


def tell(*arguments: str) -> str:
    """What `moveline ARGUMENTS` says, run by the jobs' interpreter; an error of it is one of the task."""
    done = subprocess.run([PYTHON, MAIN, *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines()[-1] if done.stderr.strip() else f"{arguments[0]} ended with {done.returncode}"
        raise AirflowFailException(said) if done.returncode == ConfigError.exit_code else RuntimeError(said)
    return done.stdout.strip()


def say_what_to_do(context: Any) -> None:
    """Log which command shows or repeats what failed."""
    task, run = context["task_instance"], context["dag_run"]
    logging.getLogger("moveline").error(
        "Task %s of %s failed. The reason is the line above that starts with `error:`. Nothing half-written is visible: mend it, "
        "then clear the task on the web page, or run `moveline run --conf %s` again; finished tables are skipped.",
        task.task_id, run.run_id, context["params"].get("conf", CONF),
    )
