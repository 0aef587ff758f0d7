"""`moveline train_model | train | evaluate | register | models`: training and the registry."""

from pathlib import Path
from typing import Annotated

import typer

from feature_store.recipe import load_recipe
from jobs.cli import DEFAULT_CONF, Conf, Data, Json, say, say_json

Model = Annotated[str, typer.Argument(help="Name of a model under `models` in the recipe, e.g. `din`.")]
Day = Annotated[str, typer.Option("--ds", help="Last day of the window; empty: the newest day built.")]
Fingerprint = Annotated[str, typer.Option("--fingerprint", help="Fingerprint of the tables, kept with the version.")]

OnlyConf = Annotated[Path | None, typer.Option("--conf", envvar="MOVELINE_CONF", help="Only models of this recipe.")]
Warm = Annotated[bool, typer.Option("--warm", help="Start from the champion: known ids keep their vectors, new ones begin fresh.")]
Processes = Annotated[int, typer.Option("--processes", help="Processes that train together, 1 to 4; the losses are the same.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (train, evaluate, register_version, train_model):
        app.command(command.__name__.removesuffix("_version"), rich_help_panel="Models")(command)
    app.command(rich_help_panel="Look at it")(models)
    app.command(hidden=True)(untrained)


def train(model: Model, conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Encode the window and train one model; nothing is registered. Stopped and started again, it goes on where it was.

    Example: `moveline train din --conf conf/simulated.yaml`
    """
    from jobs.stages import train_stage

    done = train_stage(conf, model, ds or None)
    say(f"{model} trained on the window that ends with {done.day} in {done.result.seconds:.0f} s: {done.result.folder}")


def evaluate(model: Model, conf: Conf = DEFAULT_CONF, ds: Day = "", as_json: Json = False) -> None:
    """Judge a trained model on its test days, beside the baselines; trains it first when that was not done.

    Example: `moveline evaluate din --conf conf/simulated.yaml --json`
    """
    from jobs.cli_inspect import show
    from jobs.inspect_models import beside_baselines
    from jobs.stages import evaluate_stage
    from models.evaluation import headline

    result = evaluate_stage(conf, model, ds or None)
    if as_json:
        say_json(result)
    else:
        show(f"{model} on the test days", beside_baselines({"model": model, "all_metrics": headline(result)}))


def register_version(model: Model, conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Register a trained and judged model and set its alias; does first what was not done. Registered tables are left as they are.

    Example: `moveline register din --conf conf/simulated.yaml`
    """
    from jobs.train_models import train_model as run

    say(str(run(conf, model, ds or None)))


def train_model(model: Model, conf: Conf = DEFAULT_CONF, data: Data = "", ds: Day = "", fingerprint: Fingerprint = "",
                warm: Warm = False, processes: Processes = 1) -> None:
    """Train, evaluate and register one model on the days that end with `--ds`, and set its alias.

    Tables that a version was trained on already are not trained on again, warm or not. A warm version names the one it began with
    in its tag `warm_from`.

    Example: `moveline train_model din --conf conf/simulated.yaml`, a day later `moveline train_model din --warm --processes 2`
    """
    from jobs.train_models import train_model as run

    say(str(run(conf, model, ds or None, fingerprint or None, processes=processes, warm=warm)))


def models(conf: OnlyConf = None, as_json: Json = False) -> None:
    """Registered versions: aliases, metrics, what each was trained on.

    Examples: `moveline models`, `moveline models --conf conf/trivago.yaml --json`
    """
    from jobs.cli_inspect import show
    from jobs.inspect_models import versions

    only = load_recipe(conf).name if conf else None
    # A recipe's name holds no dash, so that what stands before the first is the recipe.
    rows = [row for row in versions() if only in (None, row["model"].partition("-")[0])]
    if as_json:
        say_json(rows)
    elif rows:
        show("registered models", [{k: r[k] for k in ("model", "version", "alias", "day", "metrics")} for r in rows])
    else:
        say(f"no model{f' of {only}' if only else ''} is registered yet; `moveline run` or `moveline train_model din` trains one")


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
