"""The command `moveline`. Spark, torch and MLflow are imported by the commands that need them, so that help is instant."""

import logging
import os
import sys
import time
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer

from feature_store.errors import MovelineError, used_up, without_password
from feature_store.home import home

app = typer.Typer(
    name="moveline", no_args_is_help=True, rich_markup_mode="markdown", pretty_exceptions_enable=False, add_completion=False,
    help="""From raw behaviour and exposure logs to a registered recommender model, every day.

**Try it**: `make demo`, or step by step:

- `moveline simulate --conf conf/simulated.yaml` writes a log with a known truth

- `moveline daily --conf conf/simulated.yaml` builds the tables of all its days in one Spark session

- `moveline tables --conf conf/simulated.yaml` shows what was built, `moveline tables rejects` what was refused and why

- `moveline up`, then `moveline run` does the same through Airflow, and trains and registers the models

- `moveline models` lists the registered versions; `moveline down` stops Airflow and MLflow

State lies below `MOVELINE_HOME` (default `var/`).""")

Conf = Annotated[Path, typer.Option("--conf", envvar="MOVELINE_CONF", help="Recipe: one YAML file a log, see `conf/`.")]
Data = Annotated[
    str, typer.Option("--data", envvar="MOVELINE_DATA", help="Folder of the raw files; not needed for a simulated log.")
]
Ds = Annotated[str, typer.Option("--ds", help="UTC day `2026-05-01`, days `2026-05-01..2026-05-03`, or every day of the recipe.")]
Json = Annotated[bool, typer.Option("--json", help="Answer in JSON, for programs.")]
DEFAULT_CONF = Path("conf/simulated.yaml")


def named(text: str) -> list[str]:
    """The names in a text, which are separated by commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def say(text: str) -> None:
    """One line on standard output."""
    typer.echo(text)


def say_json(value: Any) -> None:
    """One line of JSON on standard output."""
    import json

    typer.echo(json.dumps(value, default=str))


def _table_command(job: str, row: str) -> None:
    def command(conf: Conf = DEFAULT_CONF, data: Data = "", ds: Ds = "", as_json: Json = False) -> None:
        from jobs.run_job import run_tables

        results = run_tables(job, conf, data or None, ds or None, (lambda _: None) if as_json else say)
        if as_json:
            say_json([vars(r) for r in results])

    example = f"\n\nExample: `moveline {job} --conf conf/simulated.yaml --ds 2026-05-01`"
    app.command(job, help=row + example, rich_help_panel="Tables of a day")(command)


_table_command(
    "daily", "Build every table of a day, in one Spark session. Finished tables whose inputs did not change are skipped."
)
_table_command(
    "ingest", "Read the raw log of a day into events, exposures, items and users; what is refused goes to rejects with a reason."
)
_table_command("movelines", "Order each user's events of a day into one moveline.")
_table_command("visits", "Cut each user's walk into scene visits with dwell and counts.")
_table_command("vocabulary", "Append the ids that are new on a day; an index never changes its meaning.")
_table_command("pages", "Join what was shown together with what was known of the user before it.")
_table_command("pairs", "Co-click, co-non-click and mono-click pairs of each page, exact counts beside them.")
_table_command("flows", "Cuts of a user's walk with the next items after each: rows for generators.")


@app.command(rich_help_panel="Start here")
def simulate(conf: Conf = DEFAULT_CONF) -> None:
    """Write a simulated log with a known truth, below the state folder. The same seed gives the same log.

    Example: `moveline simulate --conf conf/simulated.yaml`
    """
    from jobs.run_job import run_simulate

    run_simulate(conf, say)


def _load_commands() -> None:
    # They register themselves on `app`; kept apart so that each file has one topic.
    from jobs import cli_ablate, cli_inspect, cli_models, cli_operate, cli_services, cli_unseen

    for module in (cli_inspect, cli_models, cli_operate, cli_ablate, cli_unseen, cli_services):
        module.register(app)


def main() -> None:
    """Run a command: an error a user can mend is one line on stderr and exit 1 (2: usage or recipe), all else leaves a log file."""
    _load_commands()
    _log_to_stderr()
    try:
        code = app(standalone_mode=False)
    except MovelineError as error:
        typer.echo(f"error: {error}", err=True)
        code = error.exit_code
    except (KeyboardInterrupt, typer.Abort):
        typer.echo("stopped", err=True)
        code = 130
    except Exception as error:
        code = _unexpected(error)
    sys.exit(code or 0)


def _log_to_stderr() -> None:
    # What long work says of itself, such as the loss of a training, also in the log of a task and in a pipe.
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("moveline")
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def _unexpected(error: Exception) -> int:
    if hasattr(error, "format_message"):  # wrong usage: typer's own errors
        typer.echo(f"error: {error.format_message()} (see `moveline --help`, `moveline COMMAND --help`)", err=True)
        return 2
    job = next((a for a in sys.argv[1:] if not a.startswith("-")), "moveline")
    if why := used_up(error):
        typer.echo(f"error: {job}: {why}", err=True)
        return 1
    path = home() / "logs" / f"error-{job}-{time.strftime('%Y%m%dT%H%M%S')}-{os.getpid()}.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(without_password(traceback.format_exc()))
    first = (without_password(str(error)).strip() or type(error).__name__).splitlines()[0][:300]
    typer.echo(f"error: {job} failed unexpectedly: {type(error).__name__}: {first}; the whole trace is in {path}", err=True)
    return 1


if __name__ == "__main__":
    main()
