"""`moveline up | down | run | demo`: Airflow and MLflow on this machine."""

from pathlib import Path
from typing import Annotated

import typer

from jobs.cli import DEFAULT_CONF, Conf, Data, Ds, say

First = Annotated[str, typer.Option("--from", help="First day, in place of `--ds`.")]
Last = Annotated[str, typer.Option("--to", help="Last day, in place of `--ds`.")]
Quiet = Annotated[bool, typer.Option("--plain", help="Plain lines instead of a progress display.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Airflow and MLflow")(up)
    app.command(rich_help_panel="Airflow and MLflow")(down)
    app.command(rich_help_panel="Airflow and MLflow")(run)
    app.command(rich_help_panel="Start here")(demo)


def up(conf: Conf = DEFAULT_CONF, data: Data = "") -> None:
    """Start Airflow (scheduler, web page) and MLflow, bound to 127.0.0.1, with the graphs of one recipe.

    Example: `moveline up --conf conf/simulated.yaml`
    """
    from jobs import services
    from jobs.preflight import check

    check()
    folder = _folder(conf, data)
    if services.running() is not None:
        say("already up")
    found = services.up(conf, folder, say)
    for text in services.where(found):
        say(text)


def down() -> None:
    """Stop Airflow, MLflow and everything they started, Spark's JVMs included."""
    from jobs import services

    count = services.down()
    say(f"stopped {count} processes" if count else "nothing was running")


def run(conf: Conf = DEFAULT_CONF, data: Data = "", ds: Ds = "", first: First = "", last: Last = "", plain: Quiet = False) -> None:
    """Run the daily graph for some days through Airflow (its own backfill) and follow it, and the training it starts.

    Example: `moveline up` once, then `moveline run --from 2026-05-01 --to 2026-05-03`
    """
    from feature_store.recipe import load_recipe
    from jobs import follow, services
    from jobs.run_job import days_asked

    found = services.running()
    if found is None:
        raise services.ServiceError(f"Airflow is not running for this state folder; start it with `moveline up --conf {conf}`")
    folder = _folder(conf, data)
    services.same(found, conf, folder)
    asked = f"{first or last}..{last or first}" if first or last else ds
    follow.run_days(found.airflow, days_asked(load_recipe(conf), asked or None), follow.display(plain))


def demo(conf: Conf = DEFAULT_CONF, data: Data = "", plain: Quiet = False) -> None:
    """Everything at once: simulate, start Airflow and MLflow, run both graphs, show what came out, stop.

    Example: `make demo CONF=conf/trivago.yaml DATA=folder/with/the/parquet/file`
    """
    from jobs.demo import run_demo

    run_demo(conf, _folder(conf, data), plain)


def _folder(conf: Path, data: str) -> str:
    """The data folder as the graphs get it: "" for a simulated log."""
    from feature_store.recipe import load_recipe
    from jobs.run_job import data_folder

    recipe = load_recipe(conf)
    folder = data_folder(recipe, data or None)
    return "" if recipe.simulator is not None and not data else folder
