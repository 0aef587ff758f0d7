"""The recipes that the documentation shows are recipes."""

import re
from pathlib import Path

import pytest

from feature_store.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[2]
SHOWN = re.findall(r"```yaml\n(name: .*?)```", (ROOT / "docs/own_log.md").read_text(), re.DOTALL)


@pytest.mark.parametrize(("text", "exposures"), [(SHOWN[0], False), (SHOWN[1], True)])
def test_a_recipe_of_the_documentation_is_valid(tmp_path: Path, text: str, exposures: bool) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    assert load_recipe(path).has_exposures is exposures
