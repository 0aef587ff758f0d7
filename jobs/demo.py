"""`make demo`: everything once, under a real Airflow, then stop what was started."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import typer

from feature_store.errors import MovelineError
from feature_store.home import home, lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.tables import Lake
from jobs import follow, inspect_lake, inspect_models, processes, services
from jobs.airflow_api import AirflowApi
from jobs.preflight import check
from jobs.run_job import days_asked
from jobs.terminal import console, grid


def run_demo(conf: Path, data: str, plain: bool) -> None:
    """Simulate (when the recipe has a simulator), start the services, build the recipe's days, train, show the result, stop.

    Raises
    ------
    MovelineError : the machine lacks something, a service does not start, or a task fails.
    """
    started = time.monotonic()
    check()
    recipe = load_recipe(conf)
    days = days_asked(recipe, None)
    if services.running() is not None:
        raise services.ServiceError("Airflow is already up for this state folder; `moveline run` uses it, `moveline down` stops it")
    say, shown = _clock(started), follow.display(plain)
    with _stops_on_signals():
        try:
            if recipe.simulator is not None and not data:
                _simulate(recipe, conf, say)
            found = services.up(conf, data, say)
            for text in services.where(found):
                say(text)
            for dag in (follow.DAILY, follow.TRAIN):
                AirflowApi(found.airflow).abandon(dag)
            say(f"building {len(days)} days, {days[0]} to {days[-1]}")
            if not recipe.has_exposures:
                say(_events_only(recipe))
            follow.run_days(found.airflow, days, shown)
        finally:
            with _deaf():
                say("stopping what was started")
                services.down()
    _report(recipe, conf, data, time.monotonic() - started)


def _clock(started: float) -> Any:
    return lambda text: typer.echo(f"{time.monotonic() - started:6.0f} s  {text}")


def _events_only(recipe: Recipe) -> str:
    trained = f", and trains {', '.join(recipe.models)}" if recipe.models else ""
    return f"{recipe.name} logs events only, no exposures: it stops after movelines, vocabulary and flows{trained}"


def _simulate(recipe: Recipe, conf: Path, say: Any) -> None:
    # A log that was cut short, or made from other settings or by other code, is written again.
    from jobs.simulate import is_current

    if is_current(recipe, raw_root(recipe.name)):
        say(f"using the simulated log that is already in {raw_root(recipe.name)}")
        return
    say("writing a simulated log")
    # In a process of its own: Spark takes over Ctrl-C where it starts, and its JVM would stay until the demo ends.
    command = [sys.executable, "-m", "jobs.main", "simulate", "--conf", str(conf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, processes.MARK: str(home())}) as running:
        for line in running.stdout or ():
            say(line.rstrip())
    if running.returncode:
        raise MovelineError(f"the simulated log could not be written; `moveline simulate --conf {conf}` tries it again")


@contextmanager
def _stops_on_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the demo the way Ctrl-C does: through `finally`."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _deaf() -> Iterator[None]:
    """A second Ctrl-C does not interrupt the stopping itself."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _report(recipe: Recipe, conf: Path, data: str, seconds: float) -> None:
    out = console()
    rows = inspect_lake.overview(Lake(lake_root(recipe.name)))
    if not rows:
        raise MovelineError(f"{recipe.name}: no table was built")
    out.print(grid(f"{recipe.name}: {rows[0]['first']} to {rows[0]['last']}", rows))
    if not recipe.has_exposures:
        out.print(_events_only(recipe) + ".")
    trained = [r for r in inspect_models.versions() if r["model"].startswith(f"{recipe.name}-") and r["alias"]]
    if trained:
        out.print(grid("registered models", [{k: r[k] for k in ("model", "version", "alias", "day")} for r in trained]))
        metrics = [m for r in trained for m in inspect_models.beside_baselines(r)]
        if metrics:
            out.print(grid("on the test day (higher is better; for log loss and calibration error lower is)", metrics))
        for row in trained:
            closed = row["all_metrics"].get("test.truth.gap_closed")
            if closed is not None:
                out.print(f"{row['model']} closes {closed:.0%} of the log-loss gap between base rate and true click probabilities.")
            if line := inspect_models.chance(row):
                out.print(line)
    elif recipe.models:
        log = services.log_file("scheduler")
        raise MovelineError(f"{recipe.name}: the graphs ended without a registered model; see `moveline models` and {log}")
    else:
        out.print(f"{conf} names no `models`, so nothing was trained; `models: {{din: {{}}}}` trains one that ranks.")
    again = f"--conf {conf}" + (f" --data {data}" if data else "")
    out.print(f"Took {seconds:.0f} s. Nothing is running any more. Look further:")
    for command, why in (
        (f"moveline up {again}",
         f"start Airflow (http://127.0.0.1:{services.AIRFLOW_PORT}) and MLflow (http://127.0.0.1:{services.MLFLOW_PORT}) again"),
        (
            f"moveline tables --conf {conf}",
            "days, rows and versions of the tables; `moveline tables rejects`: what was refused, why",
        ),
        ("moveline models", "registered versions and their metrics"),
        (f"moveline daily {again}", "build the tables again without Airflow: nothing changed, so everything is skipped"),
    ):
        out.print(f"  .venv/bin/{command}\n      {why}")
