"""`moveline unseen`: train without a scenario, test on it, one scenario after the other."""

from typing import Annotated

import typer

from feature_store.recipe import load_recipe
from jobs.cli import DEFAULT_CONF, Conf, Json, named, say, say_json
from jobs.cli_ablate import AtOnce
from jobs.cli_models import Day

Seeds = Annotated[int, typer.Option("--seeds", min=1, max=20, help="Every arm is trained with the seeds 1 to this.")]
Arms = Annotated[str, typer.Option("--arms", help="Arms, separated by commas; empty: ccn, its rivals and its controls.")]
Scenarios = Annotated[str, typer.Option("--scenarios", help="Scenarios to hold out, separated by commas; empty: the largest.")]
Largest = Annotated[int, typer.Option("--largest", min=1, help="Without --scenarios: so many, by test pages.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Models")(unseen)
    for command in (unseen_plan, unseen_run, unseen_collect):
        app.command(command.__name__, hidden=True)(command)


def unseen(conf: Conf = DEFAULT_CONF, ds: Day = "", seeds: Seeds = 3, arms: Arms = "", scenarios: Scenarios = "",
           largest: Largest = 10, at_once: AtOnce = 2) -> None:
    """Train every arm on all scenarios but one, test it there, for each scenario in turn; what is finished is skipped.

    Example: `moveline unseen --conf conf/trivago_unseen.yaml --seeds 3 --largest 10`
    """
    from jobs.at_once import each
    from jobs.unseen import chosen, prepare, run, unfinished

    prepared = prepare(conf, ds or None)
    todo = unfinished(prepared, *chosen(load_recipe(conf), prepared, named(scenarios), named(arms), largest), seeds)
    say(f"{len(todo)} runs to do, in {prepared.folder}")
    for found in each(run, [(conf, prepared, *call) for call in todo], at_once):
        say(f"without {found['scenario']}: {found['arm']}, seed {found['seed']}, {found['pages']} test pages, "
            f"in {found['seconds']:.0f} s")
    unseen_collect(conf, ds)


def unseen_plan(conf: Conf = DEFAULT_CONF, ds: Day = "", seeds: Seeds = 3, arms: Arms = "", scenarios: Scenarios = "",
                largest: Largest = 10, as_json: Json = False) -> None:
    """Encode the window, and name the (scenario, arm, seed) that are to be done."""
    from jobs.unseen import chosen, prepare, unfinished

    prepared = prepare(conf, ds or None)
    todo = unfinished(prepared, *chosen(load_recipe(conf), prepared, named(scenarios), named(arms), largest), seeds)
    if as_json:
        say_json(todo)
    else:
        say("\n".join(f"{scenario} {arm} {seed}" for scenario, arm, seed in todo) or "all are done")


def unseen_run(scenario: str, arm: str, seed: int, conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Train one arm with one seed without a scenario, and score that one's test pages."""
    from jobs.unseen import prepare, run

    found = run(conf, prepare(conf, ds or None), scenario, arm, seed)
    say(f"without {scenario}: {arm}, seed {seed}, {found['pages']} test pages, in {found['seconds']:.0f} s")


def unseen_collect(conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Pool the held-out scenarios that are done and compare the arms."""
    from jobs.unseen import prepare
    from jobs.unseen_report import collect, table, written

    prepared = prepare(conf, ds or None)
    say(table(collect(load_recipe(conf), prepared)))
    say(" and ".join(str(path) for path in written(prepared)))
