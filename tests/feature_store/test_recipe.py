"""Recipes: one may take the sections of another."""

from contextlib import suppress
from datetime import date
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from feature_store.errors import ConfigError, MovelineError
from feature_store.recipe import Recipe, load_recipe

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
        for name, own in recipe.models.items():
            CATALOG[name].config_type.model_validate(own)
    amen, published = load_recipe(CONF / "simulated_amen.yaml"), load_recipe(CONF / "simulated_published.yaml")
    assert amen.simulator == published.simulator and amen.days and published.days and amen.days.first == published.days.first
    assert len(amen.days.until(date.today())) == amen.split.train_days + amen.split.test_days


WORDS = st.sampled_from([
    "name", "source", "inputs", "events", "from", "columns", "models", "extends", "days", "first", "&a", "*a", "<<: *a", "!!bool",
    "!!python/object/apply:os.abort []", "!!timestamp", "!!int", "0b", "2026-13-45", "1e999", "9" * 5_000, "[", "]", "{", "}", ":",
    ": ", "-", "- ", "\n", "\n  ", "? ", "|", "'", '"', "#", "%YAML 1.1", "---", "\x00", "\u2028", "\ud83d", "null", "~", "..",
    "base.yaml", "[" * 3_000])
NESTED = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.dates(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4), max_leaves=8)


def read(folder: Path, content: bytes) -> None:
    """Load a recipe; whatever is in it, what is wrong is said in words."""
    path = folder / "own.yaml"
    path.write_bytes(content)
    with suppress(MovelineError):
        load_recipe(path)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(parts=st.lists(WORDS | st.text(max_size=8), max_size=12), raw=st.binary(max_size=40))
def test_any_text_is_a_recipe_or_a_message(tmp_path: Path, parts: list[str], raw: bytes) -> None:
    (tmp_path / "base.yaml").write_text(BASE)
    read(tmp_path, " ".join(parts).encode("utf-8", "surrogatepass") + raw)
    read(tmp_path, (BASE + "".join(parts)).encode("utf-8", "surrogatepass"))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(sorted(Recipe.model_fields)), own=NESTED, inner=st.text(max_size=12))
def test_any_value_under_any_key_is_a_recipe_or_a_message(tmp_path: Path, key: str, own: object, inner: str) -> None:
    base = {"name": "base", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]}}
    for content in ({**base, key: own}, {**base, key: {inner: own}}):
        read(tmp_path, yaml.safe_dump(content).encode("utf-8", "surrogatepass"))


def test_a_recipe_cannot_run_code_or_leave_its_folder(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    for text in ("!!python/object/apply:os.system [true]", BASE + "days: !!python/name:os.system"):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"own.yaml: not readable as YAML: could not determine a constructor for the tag"):
            load_recipe(path)
    for name in ("../x", "a/b", "a.b", "", "A", "_ledger"):
        path.write_text(BASE.replace("name: base", f"name: '{name}'"))
        with pytest.raises(ConfigError, match=r"own.yaml: name: String should match pattern"):
            load_recipe(path)
    for text in (BASE + "days: {first: 2026-13-45}", "a: !!bool maybe", "a: " + "9" * 5_000, "[" * 3_000, "extends: \"\\0\""):
        path.write_text(text)
        with pytest.raises(ConfigError, match=r"own.yaml: |no such recipe"):
            load_recipe(path)
