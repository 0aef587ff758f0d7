"""`moveline gate | promote | rollback | history | score | retrieve | export | deploy | watch | upkeep | doctor`: operation."""

from pathlib import Path
from typing import Annotated

import typer

from feature_store.recipe import load_recipe
from jobs.cli import DEFAULT_CONF, Conf, Ds, Json, say, say_json
from jobs.cli_models import Day, Model, OnlyConf

Version = Annotated[str, typer.Argument(help="Number of a registered version, see `moveline models`.")]
Reason = Annotated[str, typer.Option("--reason", help="Why; kept in the ledger.")]
PANEL = "Operate"


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command in (gate, promote, rollback, history, score, retrieve, export, deploy, watch, upkeep, doctor):
        app.command(rich_help_panel=PANEL)(command)
    app.command(hidden=True)(undeployed)


def gate(model: Annotated[str, typer.Argument(help="Empty: every version that waits (`gate.wait` of the recipe).")] = "",
         version: Annotated[str, typer.Argument(help="Its number; empty: the newest version.")] = "",
         conf: Conf = DEFAULT_CONF, as_json: Json = False) -> None:
    """Compare a version with the champion on the first closed days after both, and make it champion unless the gate refuses.

    Registering asks the gate, too; asked again some days later, it compares on days that nobody had looked at.

    Examples: `moveline gate din --conf conf/simulated.yaml`, `moveline gate`
    """
    from feature_store.home import lake_root
    from feature_store.tables import Lake
    from jobs.gate import gate as run
    from jobs.gate import told, waiting
    from jobs.promote import registered, version_of
    from models.registry import Registry

    recipe, registry = load_recipe(conf), Registry()
    if not model:
        chosen = waiting(recipe, registry)
    else:
        chosen = [version_of(recipe, model, version, registry) if version else registered(recipe, model, registry)[1][0]]
    done = [run(recipe, Lake(lake_root(recipe.name)), one, registry) for one in chosen]
    numbers = [{k: v for k, v in registry.metrics(made).items() if k.startswith("gate.")} for made in done]
    if as_json:
        found = [{"model": made.name, "version": made.version, "aliases": made.aliases, "numbers": own,
                  **{k: v for k, v in made.tags.items() if k.startswith("gate.")}} for made, own in zip(done, numbers, strict=True)]
        say_json(found[0] if model else found)
    else:
        say("\n".join(told(made, own) for made, own in zip(done, numbers, strict=True)) or "no version waits")


def promote(model: Model, version: Version, conf: Conf = DEFAULT_CONF, reason: Reason = "") -> None:
    """Make a version the champion by hand, whatever the gate said of it.

    Example: `moveline promote din 3 --reason "the drop came from a broken log"`
    """
    from jobs.promote import promote as run

    made = run(load_recipe(conf), model, version, reason)
    say(f"{made.name}: version {made.version} is champion")


def rollback(model: Model, conf: Conf = DEFAULT_CONF, reason: Reason = "") -> None:
    """Return to the champion before the present one, in one step.

    Example: `moveline rollback din --reason "clicks fell"`
    """
    from jobs.promote import rollback as run

    made = run(load_recipe(conf), model, reason)
    say(f"{made.name}: version {made.version} is champion again")


def history(model: Annotated[str, typer.Argument(help="Only this model of the recipe.")] = "", conf: OnlyConf = None,
            as_json: Json = False) -> None:
    """The ledger: every change of an alias, oldest first, with who made it and why.

    Examples: `moveline history`, `moveline history din --conf conf/simulated.yaml --json`
    """
    from jobs.cli_inspect import show
    from models.ledger import read

    name = f"{load_recipe(conf or Path(DEFAULT_CONF)).name}-{model}" if model else ""
    only = load_recipe(conf).name if conf else None
    entries = [e for e in read(model=name) if only in (None, e.model.partition("-")[0])]
    if as_json:
        say_json([vars(e) for e in entries])
    elif entries:
        show("history", [{
            "time": f"{e.time:%Y-%m-%d %H:%M:%S}", "model": e.model, "alias": e.alias, "what": e.action,
            "from": e.from_version or "", "to": e.to_version or "", "why": e.reason,
            "numbers": ", ".join(f"{k} {v:.4f}" for k, v in e.numbers.items()), "by": e.by} for e in entries])
    else:
        say("no alias was ever set; `moveline train_model din` registers a first champion")


def score(model: Model, which: Annotated[str, typer.Option("--version", help="A number, or an alias.")] = "champion",
          conf: Conf = DEFAULT_CONF, ds: Ds = "", as_json: Json = False) -> None:
    """Score the pages of a day (the newest, without `--ds`) into the table `scores`, by a Spark job.

    Examples: `moveline score din`, `moveline score din --version 3 --ds 2026-05-01..2026-05-03`
    """
    from jobs.promote import version_of
    from jobs.run_job import days_asked, line
    from jobs.score import run_score
    from models.registry import Registry

    recipe, registry = load_recipe(conf), Registry()
    version = version_of(recipe, model, which, registry)
    days = days_asked(recipe, ds) if ds else []
    done = []
    for result in run_score(recipe, days, version, registry):
        done.append(vars(result))
        if not as_json:
            say(f"{version.uri} {line(result)}")
    if as_json:
        say_json({"version": version.uri, "days": done})


def retrieve(model: Model, which: Annotated[str, typer.Option("--version", help="A number, or an alias.")] = "champion",
             conf: Conf = DEFAULT_CONF, ds: Day = "", top: Annotated[int, typer.Option("--top", min=1, help="Items a user.")] = 100,
             as_json: Json = False) -> None:
    """The items that `nif` or `item2vec` expects next of every user of a day (the newest, without `--ds`): table `retrieved`.

    Example: `moveline retrieve nif --top 200 --ds 2026-05-01`
    """
    from jobs.promote import version_of
    from jobs.retrieve import run_retrieve
    from jobs.run_job import line
    from models.registry import Registry

    recipe, registry = load_recipe(conf), Registry()
    version = version_of(recipe, model, which, registry)
    done = run_retrieve(recipe, ds or None, version, registry, top)
    if as_json:
        say_json({"version": version.uri, **vars(done)})
    else:
        say(f"{version.uri} {line(done)}")


def export(model: Model, which: Annotated[str, typer.Option("--version", help="A number, or an alias.")] = "champion",
           run: Annotated[str, typer.Option("--run", help="Folder of a run that is not registered; its newest checkpoint.")] = "",
           conf: Conf = DEFAULT_CONF, as_json: Json = False) -> None:
    """Write what a service reads of a version: the unsharded module, also with int8 tables, and for item vectors the tables
    `item_side` and `code_books` and an index for retrieval. With `--run`, the module of a checkpoint alone.

    Examples: `moveline export tarq`, `moveline export din --run var/cache/simulated/runs/din-.../model`
    """
    from feature_store.home import lake_root
    from feature_store.tables import Lake
    from jobs.export import export_run, run_export
    from jobs.promote import version_of
    from models.registry import Registry

    recipe = load_recipe(conf)
    if run:
        made = export_run(run, f"{recipe.name}-{model}-run")
    else:
        registry = Registry()
        made = run_export(Lake(lake_root(recipe.name)), version_of(recipe, model, which, registry), registry)
    if as_json:
        say_json(vars(made))
    else:
        say(f"{made.folder}: tables of {made.table_bytes:,} bytes, {made.int8_bytes:,} as int8"
            + (f"; {made.items:,} items in the table item_side and in the index" if made.items else ""))


def deploy(model: Model, conf: Conf = DEFAULT_CONF, ds: Day = "") -> None:
    """Put the champion to use (alias `deployed`), when its scores of a slice of users look like those of the version in use.

    Example: `moveline deploy din --conf conf/simulated.yaml`
    """
    from feature_store.home import lake_root
    from feature_store.session import spark_session
    from feature_store.tables import Lake
    from jobs.deploy import deploy as run

    recipe = load_recipe(conf)
    spark = spark_session(f"moveline deploy {recipe.name}")
    try:
        made = run(spark, recipe, Lake(lake_root(recipe.name)), model, ds or None)
    finally:
        spark.stop()
    say(f"{made.name}: version {made.version} is deployed")


def undeployed(conf: Conf = DEFAULT_CONF, as_json: Json = False) -> None:
    """Models of the recipe whose champion is not in use."""
    from jobs.deploy import undeployed as those
    from models.registry import Registry

    found = those(load_recipe(conf), Registry())
    if as_json:
        say_json(found)
    else:
        say(" ".join(found) or "every champion is deployed")


def watch(model: Annotated[str, typer.Argument(help="Empty: every model that ranks pages and has a champion.")] = "",
          conf: Conf = DEFAULT_CONF, ds: Day = "", as_json: Json = False) -> None:
    """Look at the champion on a day's pages (without `--ds` the newest day whose labels are closed): GAUC, calibration, unknown
    items, and how far the day is from the one before. Exits 1 when a limit of the recipe is passed.

    Example: `moveline watch din --ds 2026-03-04`
    """
    from feature_store.errors import ModelError
    from feature_store.home import lake_root
    from feature_store.tables import Lake
    from jobs.watch import watch as run
    from jobs.watch import watched
    from models.registry import Registry

    recipe, registry = load_recipe(conf), Registry()
    numbers, wrong = {}, []
    for name in [model] if model else watched(recipe, registry):
        try:
            numbers[name] = run(recipe, Lake(lake_root(recipe.name)), name, ds or None, registry)
        except ModelError as error:
            wrong.append(str(error))
    if as_json:
        say_json(numbers)
    else:
        say("\n".join(f"{name}: " + ", ".join(f"{k} {v:.4g}" for k, v in own.items()) for name, own in numbers.items())
            or "no champion ranks pages" if not wrong else "")
    if wrong:
        raise ModelError(" | ".join(wrong))


def upkeep(conf: Conf = DEFAULT_CONF, as_json: Json = False) -> None:
    """Bring small files together, delete versions of tables that nobody can ask for any more, and training runs that were given up.

    What registered models were trained on stays.

    Example: `moveline upkeep --conf conf/simulated.yaml`
    """
    from feature_store.home import lake_root
    from feature_store.session import spark_session
    from feature_store.tables import Lake
    from jobs.upkeep import upkeep as run

    recipe = load_recipe(conf)
    spark = spark_session(f"moveline upkeep {recipe.name}")
    try:
        done = run(spark, recipe, Lake(lake_root(recipe.name)))
    finally:
        spark.stop()
    if as_json:
        say_json(vars(done))
    else:
        say(f"{recipe.name}: {done}")


def doctor(as_json: Json = False) -> None:
    """Look for what is wrong with this machine or the state folder, and say what to do. Changes nothing.

    Exits 1 when there is something to do.

    Example: `moveline doctor`
    """
    from jobs.cli_inspect import show
    from jobs.doctor import examine

    found = examine()
    if as_json:
        say_json([vars(f) for f in found])
    else:
        show("doctor", [{"about": f.about, "found": f.says, "what to do": f.fix} for f in found])
    if any(f.fix for f in found):
        raise typer.Exit(1)
