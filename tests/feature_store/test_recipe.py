"""Recipes: one may take the sections of another."""

from datetime import date
from pathlib import Path

import pytest

from feature_store.errors import ConfigError
from feature_store.recipe import load_recipe

CONF = Path(__file__).resolve().parents[2] / "conf"
BASE = "name: base\nsource: {inputs: {}, events: [{from: a, columns: {}}]}\nmodels: {din: {dim: 8}, item2vec: {}}\n"


def test_a_recipe_takes_the_sections_of_another_that_it_does_not_give(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "own.yaml").write_text("extends: base.yaml\nmodels: {din: {seed: 3}}\n")
    own, base = load_recipe(tmp_path / "own.yaml"), load_recipe(tmp_path / "base.yaml")
    assert own.models == {"din": {"seed": 3}} and (own.name, own.source) == (base.name, base.source)


@pytest.mark.parametrize(("text", "message"), [
    ("extends: own.yaml", r"own.yaml: extends: a recipe cannot extend itself"), ("extends: 3", "names another recipe's file"),
    ("extends: back.yaml", r"own.yaml: extends: a recipe cannot extend itself"),
    ("name: a\nmodels: {din: {dim: 8, dim: 16}}", "own.yaml: not readable as YAML: .*key 'dim' is given twice"),
    ("extends: gone.yaml", "gone.yaml: no such recipe"), ("extends: base.yaml\nmodel: {}", "own.yaml: model: Extra inputs"),
])
def test_a_recipe_that_extends_nothing_is_refused(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    (tmp_path / "back.yaml").write_text("extends: own.yaml")
    (tmp_path / "own.yaml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(tmp_path / "own.yaml")


def test_every_recipe_that_comes_along_is_valid_and_names_models_that_exist() -> None:
    from models.catalog import CATALOG
    from models.kinds import READS

    assert {name: model.reads for name, model in CATALOG.items()} == READS
    for path in CONF.glob("*.yaml"):
        recipe = load_recipe(path)
        for name, settings in recipe.models.items():
            CATALOG[name].config_type.model_validate(settings)
    amen, published = load_recipe(CONF / "simulated_amen.yaml"), load_recipe(CONF / "simulated_published.yaml")
    assert amen.simulator == published.simulator and amen.days and published.days and amen.days.first == published.days.first
    assert len(amen.days.until(date.today())) == amen.split.train_days + amen.split.test_days
