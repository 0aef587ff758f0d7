"""Which tables a training run would use, and whether all of its days are there."""

from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path

from feature_store.day_commits import fingerprint
from feature_store.errors import ConfigError
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from models.kinds import READS


@dataclass(frozen=True)
class Snapshot:
    """Tables of one training window.

    Attributes
    ----------
    recipe, day : name of the recipe, last day of the window (`YYYY-MM-DD`). reason : why it cannot be trained on, "" when it can.
    fingerprint : digest of the tables' content and of the settings of split and models. rows, versions : by table.
    """

    recipe: str
    day: str
    reason: str
    fingerprint: str = ""
    rows: dict[str, int] = field(default_factory=dict)
    versions: dict[str, int] = field(default_factory=dict)


def window(recipe: Recipe, day: str) -> list[str]:
    """The days of the training run whose last day is `day`, ascending.

    Examples
    --------
    >>> from feature_store.recipe import Recipe
    >>> recipe = Recipe.model_validate({"name": "x", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]}})
    >>> window(recipe, "2026-05-03")
    ['2026-05-01', '2026-05-02', '2026-05-03']
    """
    last = date.fromisoformat(day)
    count = recipe.split.train_days + recipe.split.test_days
    return [str(last - timedelta(days=n)) for n in reversed(range(count))]


def tables_of(recipe: Recipe) -> list[str]:
    """The tables that the models of a recipe are trained on; pages in any case, where there are exposures."""
    reads = {READS.get(model) for model in recipe.models}
    return [*(["pages"] if recipe.has_exposures else []), *(name for name in ("pairs", "flows") if name in reads)]


def snapshot(recipe: Recipe, lake: Lake, day: str) -> Snapshot:
    """State of the tables of the window that ends with `day`."""
    if not recipe.models:
        return Snapshot(recipe.name, day, f"{recipe.name} names no models under `models`: nothing is trained")
    ranking = [model for model in recipe.models if READS.get(model) != "flows"]
    if ranking and not recipe.has_exposures:
        return Snapshot(recipe.name, day, f"{recipe.name} logs events only (no exposures): nothing to rank for "
                                          f"{', '.join(ranking)}, only a generator such as nif can be trained")
    days = window(recipe, day)
    parts: dict[str, str] = {}
    rows: dict[str, int] = {}
    versions: dict[str, int] = {}
    for name in tables_of(recipe):
        table = lake.table(name)
        delta = table.open() if table.exists() else None
        found = table.commits(days, delta) if delta else {}
        missing = [d for d in days if d not in found]
        if missing:
            return Snapshot(
                recipe.name, day, f"training needs the days {days[0]} to {days[-1]}; {name} still lacks {', '.join(missing)}"
            )
        parts.update({f"{name}/{c.ds}": c.digest for c in found.values()})
        rows[name] = sum(c.rows for c in found.values())
        versions[name] = delta.version() if delta else 0
    settings = {"split": recipe.split.model_dump_json(), "models": str(sorted(recipe.models.items()))}
    return Snapshot(recipe.name, day, "", fingerprint({**parts, **settings}), rows, versions)


def check_models(recipe: Recipe, path: str | Path) -> None:
    """Refuse a model that does not exist before days of work are done for it.

    Raises
    ------
    ConfigError : a model has no such name, or reads the flow of one that is no generator. path : the recipe's file, for errors.
    """
    for model in recipe.models:
        if model not in READS:
            raise ConfigError(f"{path}: models.{model}: no model is called {model!r}; the models are {', '.join(sorted(READS))}")
        generator = recipe.generator_of(model)
        if generator and READS[generator] != "flows":
            raise ConfigError(f"{path}: models.{model}.generator: {generator} gives no flows; nif does")
