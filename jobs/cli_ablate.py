"""`moveline ablate`: train a model with parts of it left out, and compare."""

from typing import Annotated

import typer

from feature_store.recipe import load_recipe
from jobs.cli import DEFAULT_CONF, Conf, Json, named, say, say_json
from jobs.cli_models import Day

Model = Annotated[str, typer.Option("--model", help="The model to take apart.")]
Seeds = Annotated[int, typer.Option("--seeds", min=1, max=20, help="Every arm is trained with the seeds 1 to this.")]
Arms = Annotated[str, typer.Option("--arms", help="Arms, separated by commas; empty: all.")]
AtOnce = Annotated[int, typer.Option("--at-once", min=1, help="Trained at a time, each on its share of the cores, in 1.5 GB.")]


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Models")(ablate)
    for command in (ablate_plan, ablate_arm, ablate_collect):
        app.command(command.__name__, hidden=True)(command)


def ablate(model: Model = "amen", conf: Conf = DEFAULT_CONF, ds: Day = "", seeds: Seeds = 5, arms: Arms = "",
           at_once: AtOnce = 2) -> None:
    """Train every arm of the ablation with every seed; what is finished is skipped. Logs a table and a plot.

    Example: `moveline ablate --model amen --conf conf/simulated_amen.yaml --seeds 5`
    """
    from jobs.ablation import prepare, ready, run_arm, shared, unfinished
    from jobs.at_once import each

    recipe = load_recipe(conf)
    prepared = prepare(conf, ds or None, model)
    todo = unfinished(recipe, prepared, _arms(arms, conf), seeds)
    say(f"{len(todo)} runs to do, in {prepared.folder}")
    generators = shared(recipe, prepared, todo)
    for number, _ in enumerate(each(ready, [(conf, prepared, *run) for run in generators], at_once), 1):
        say(f"generator {number} of {len(generators)} is trained")
    for found in each(run_arm, [(conf, prepared, *run) for run in todo], at_once):
        gauc = found["metrics"].get("test.gauc", float("nan"))
        say(f"{found['arm']}, seed {found['seed']}: gauc {gauc:.4f} in {found['seconds']:.0f} s")
    ablate_collect(model, conf, ds)


def ablate_plan(model: Model = "amen", conf: Conf = DEFAULT_CONF, ds: Day = "", seeds: Seeds = 5, arms: Arms = "",
                as_json: Json = False) -> None:
    """Prepare an ablation, and name the (arm, seed) that are to be done."""
    from jobs.ablation import prepare, unfinished

    prepared = prepare(conf, ds or None, model)
    todo = unfinished(load_recipe(conf), prepared, _arms(arms, conf), seeds)
    if as_json:
        say_json(todo)
    else:
        say("\n".join(f"{arm} {seed}" for arm, seed in todo) or "all are done")


def ablate_arm(arm: str, seed: int, model: Model = "amen", conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Train and judge one arm with one seed."""
    from jobs.ablation import prepare, run_arm

    found = run_arm(conf, prepare(conf, ds or None, model), arm, seed)
    say(f"{arm}, seed {seed}: " + ", ".join(f"{k} {v:.4f}" for k, v in found["metrics"].items() if k in ("test.gauc", "test.auc")))


def ablate_collect(model: Model = "amen", conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Compare the arms that are done."""
    from jobs.ablation import prepare
    from jobs.ablation_report import collect, table, written

    prepared = prepare(conf, ds or None, model)
    say(table(collect(load_recipe(conf), prepared)))
    say(" and ".join(str(path) for path in written(prepared)))


def _arms(given: str, conf: Conf) -> list[str]:
    from jobs.ablation import arms_of

    return named(given) or arms_of(load_recipe(conf))
