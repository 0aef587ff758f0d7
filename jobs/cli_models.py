"""`moveline train_model | train | evaluate | register | models`: training and the registry."""

from typing import Annotated

import typer

from feature_store.recipe import load_recipe
from jobs.cli import DEFAULT_CONF, Conf, Data, Ds, Json, say, say_json

Model = Annotated[str, typer.Argument(help="Name of a model under `models` in the recipe, e.g. `din`.")]
Fingerprint = Annotated[str, typer.Option("--fingerprint", help="Fingerprint of the tables, kept with the version.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command("train_model", rich_help_panel="Models")(train_model)
    app.command(rich_help_panel="Look at it")(models)
    app.command(hidden=True)(untrained)


def train_model(model: Model, conf: Conf = DEFAULT_CONF, data: Data = "", ds: Ds = "", fingerprint: Fingerprint = "") -> None:
    """Train, evaluate and register one model on the days that end with `--ds` (default: the newest day built), and set its alias.

    Example: `moveline train_model din --conf conf/simulated.yaml`
    """
    from jobs.train_models import train_model as run

    say(str(run(conf, model, ds or None, fingerprint or None)))


def models(as_json: Json = False) -> None:
    """Registered versions: aliases, metrics, what each was trained on.

    Example: `moveline models --json`
    """
    from jobs.cli_inspect import show
    from jobs.inspect_models import versions

    rows = versions()
    if as_json:
        say_json(rows)
    elif rows:
        show("registered models", [{k: r[k] for k in ("model", "version", "alias", "day", "metrics")} for r in rows])
    else:
        say("no model is registered yet; `moveline run` or `moveline train_model din` trains one")


def untrained(fingerprint: Fingerprint, conf: Conf = DEFAULT_CONF, as_json: Json = False) -> None:
    """Models of the recipe that no registered version was trained on these tables for."""
    from jobs.inspect_models import trained_on, versions

    recipe = load_recipe(conf)
    done = trained_on(versions(), fingerprint)
    todo = [m for m in recipe.models if f"{recipe.name}-{m}" not in done]
    if as_json:
        say_json(todo)
    else:
        say(" ".join(todo) or "all are registered")
