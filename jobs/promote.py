"""Moving the alias of a registered model by hand, forward or back. The ledger says who did, and why."""

from feature_store.errors import ModelError
from feature_store.recipe import Recipe
from models.ledger import NOBODY, ROLLBACK
from models.registry import CHAMPION, Registry, Version


def registered(recipe: Recipe, model: str, registry: Registry) -> tuple[str, list[Version]]:
    """Registered name and versions of a model of a recipe, newest first. Raises ModelError when there is none."""
    name = f"{recipe.name}-{model}"
    found = registry.versions(name)
    if not found:
        raise ModelError(f"{name} has no registered version; `moveline train_model {model}` makes one")
    return name, found


def version_of(recipe: Recipe, model: str, which: str, registry: Registry) -> Version:
    """A version of a model by its number or by an alias. Raises ModelError when there is none, and names those there are."""
    name, found = registered(recipe, model, registry)
    chosen = next((v for v in found if str(v.version) == which or which in v.aliases), None)
    if chosen is None:
        known = ", ".join(f"{v.version}{f' ({alias})' if (alias := ', '.join(v.aliases)) else ''}" for v in found)
        raise ModelError(f"{name} has no version {which!r}; its versions are {known}")
    return chosen


def promote(recipe: Recipe, model: str, which: str, reason: str, registry: Registry | None = None) -> Version:
    """Make a version the champion, whatever the gate said of it.

    Raises
    ------
    ModelError : there is no such version. ConflictError : the champion is not the one that it was at the start.
    """
    registry = registry or Registry()
    now = registry.by_alias(f"{recipe.name}-{model}")
    chosen = version_of(recipe, model, which, registry)
    return registry.set_alias(chosen, CHAMPION, reason, instead_of=now.version if now else NOBODY)


def rollback(recipe: Recipe, model: str, reason: str, registry: Registry | None = None) -> Version:
    """Make the champion before the present one champion again; done again, the one before that.

    Raises
    ------
    ModelError : there was no champion before. ConflictError : somebody else changes the alias at this moment.
    """
    registry = registry or Registry()
    name, _ = registered(recipe, model, registry)
    now, back = registry.by_alias(name), registry.previous(name)
    if now is None or back is None:
        stands = f"version {now.version}" if now else "none"
        raise ModelError(f"{name} has no champion to go back to (it stands on {stands}); `moveline history` shows all")
    return registry.set_alias(back, CHAMPION, reason or f"back from version {now.version}", action=ROLLBACK, instead_of=now.version)
