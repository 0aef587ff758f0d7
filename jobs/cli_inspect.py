"""`moveline tables`, `moveline snapshot`: what the lake holds."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from feature_store.recipe import Recipe, load_recipe
from jobs.cli import DEFAULT_CONF, Conf, Ds, Json, say, say_json

if TYPE_CHECKING:
    from feature_store.tables import Lake


def register(app: typer.Typer) -> None:
    """Add the commands of this file."""
    app.command(rich_help_panel="Look at it")(tables)
    app.command(hidden=True)(snapshot)


def _lake(recipe: Recipe) -> "Lake":
    from feature_store.home import lake_root
    from feature_store.tables import Lake

    return Lake(lake_root(recipe.name))


def tables(
    name: Annotated[str, typer.Argument(help="A table, for its days; `rejects`: the reasons; `triggers`: of pages.")] = "",
    conf: Conf = DEFAULT_CONF,
    ds: Ds = "",
    as_json: Json = False,
) -> None:
    """What was built: days, rows in and out, rejects and versions of each table.

    Examples: `moveline tables`, `moveline tables pages`, `moveline tables rejects --ds 2026-05-01`, `moveline tables triggers`
    """
    from jobs import inspect_lake
    from jobs.run_job import days_asked

    recipe = load_recipe(conf)
    lake = _lake(recipe)
    days = days_asked(recipe, ds) if ds else None
    if name in ("rejects", "triggers"):
        from jobs.triggers import trigger_shares

        count = inspect_lake.reject_reasons if name == "rejects" else trigger_shares
        rows: list[dict[str, Any]] = count(lake, days)
    else:
        rows = inspect_lake.days_of(lake, name, days) if name else inspect_lake.overview(lake)
    if as_json:
        say_json(rows)
    elif rows:
        show(f"{recipe.name}: {name or 'tables'}", rows)
    else:
        say(f"{recipe.name}: nothing here yet; `moveline daily --conf {conf}` builds the tables")


def show(title: str, rows: list[dict[str, Any]]) -> None:
    """A table on the terminal."""
    from jobs.terminal import console, grid

    console().print(grid(title, rows))


def snapshot(conf: Conf = DEFAULT_CONF, ds: Ds = "", as_json: Json = False) -> None:
    """Whether the days that a training run needs are all built, and the fingerprint of their tables."""
    from jobs.snapshot import snapshot as state_of

    recipe = load_recipe(conf)
    lake = _lake(recipe)
    day = ds or (lake.table("pages").days() or lake.table("events").days() or [""])[-1]
    if not day:
        from feature_store.errors import TableError

        raise TableError(f"recipe {recipe.name} has no tables yet; `moveline daily --conf {conf}` builds them")
    found = state_of(recipe, lake, day)
    if as_json:
        say_json(vars(found))
    else:
        say(found.reason or f"{found.day}: complete, fingerprint {found.fingerprint}")
