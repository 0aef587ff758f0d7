"""Every key of a recipe on one page, docs/recipe.md, made from the contracts. `python -m jobs.recipe_page` writes it."""

import inspect
from pathlib import Path
from typing import Literal, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from feature_store import recipe
from feature_store.simulator.settings import SimulatorSettings
from models.base import ModelConfig
from models.catalog import CATALOG

PAGE = Path(__file__).resolve().parent.parent / "docs" / "recipe.md"

_HEAD = """# Every key of a recipe

Made from the contracts by `python -m jobs.recipe_page`; a test compares them. [own_log.md](own_log.md) shows how the parts fit
together. An unknown key is an error that names it. `extends: other.yaml` takes over all sections that a recipe does not give.
"""
_BOUNDS = ((">=", "ge"), (">", "gt"), ("<=", "le"), ("<", "lt"))
_SECTIONS: tuple[tuple[str, type[BaseModel]], ...] = (
    ("(top level)", recipe.Recipe), ("source", recipe.Source), ("source.inputs.NAME", recipe.Input),
    ("source.views.NAME", recipe.View), ("source.views.NAME.steps[n]", recipe.Step),
    ("source.events[n], exposures, clicks, items, users", recipe.Mapping))


def recipe_page() -> str:
    """The page as Markdown."""
    own = [(name, kind) for name, field in recipe.Recipe.model_fields.items() if name != "source" and (kind := _section(field))]
    models = [(f"models.{name}", model.config_type) for name, model in sorted(CATALOG.items())]
    parts: list[tuple[str, type[BaseModel]]] = [
        *_SECTIONS, *own, ("simulator", SimulatorSettings), ("models.NAME (every model)", ModelConfig)]
    tables = [_table(name, kind, {}) for name, kind in parts]
    return "".join([_HEAD, *tables, *(_table(name, kind, ModelConfig.model_fields) for name, kind in models)])


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kinds = [field.annotation, *get_args(field.annotation)]
    return next((kind for kind in kinds if inspect.isclass(kind) and issubclass(kind, recipe.Strict)), None)


def _table(name: str, kind: type[BaseModel], known: dict[str, FieldInfo]) -> str:
    """The keys of a section, but those of every model that this one leaves as they are."""
    rows = [_row(key, field) for key, field in kind.model_fields.items() if key not in known or known[key].default != field.default]
    about = " ".join((inspect.getdoc(kind) or "").split())
    return "\n".join([f"\n## {name}\n", about, "", "| key | kind | default | meaning |", "| --- | --- | --- | --- |", *rows, ""])


def _row(key: str, field: FieldInfo) -> str:
    given = "its own keys" if isinstance(field.default, BaseModel) else f"`{field.default!r}`"
    bounds = [f"{sign} {getattr(part, mark)}" for part in field.metadata for sign, mark in _BOUNDS if hasattr(part, mark)]
    cells = (f"`{field.alias or key}`", " ".join([_kind(field.annotation), *bounds]), "needed" if field.is_required() else given,
             field.description or "")
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _kind(annotation: object) -> str:
    if get_origin(annotation) is Literal:
        return " or ".join(f"`{value}`" if value != "" else "empty" for value in get_args(annotation))
    if inspect.isclass(annotation) and not get_args(annotation):
        return "keys" if issubclass(annotation, BaseModel) else "date" if annotation.__name__ == "date" else annotation.__name__
    inner = [_kind(part) for part in get_args(annotation) if part not in (type(None), Ellipsis) and not isinstance(part, FieldInfo)]
    origin = get_origin(annotation)
    if origin is dict:
        return f"map of {inner[1]}"
    if origin in (list, tuple):
        return f"list of {inner[0]}"
    return " or ".join(inner) or "text"


if __name__ == "__main__":
    PAGE.write_text(recipe_page())
