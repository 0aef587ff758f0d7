"""The configuration behind published results, and the rows it gives, are the ones that were frozen."""

import hashlib
import re
from pathlib import Path

import numpy as np
import pytest

from feature_store.recipe import load_recipe
from feature_store.simulator.raw import BLOCK, unix_day
from feature_store.simulator.settings import settings_of
from feature_store.simulator.slates import slates_of
from feature_store.simulator.walk import walk_of

ROOT = Path(__file__).resolve().parents[2]
RECIPE = ROOT / "conf/simulated_published.yaml"


def recorded() -> list[str]:
    return re.findall(r"`([0-9a-f]{64})`", (ROOT / "docs/results/frozen.md").read_text())


def test_the_published_recipe_is_the_frozen_one() -> None:
    if hashlib.sha256(RECIPE.read_bytes()).hexdigest() != recorded()[0]:
        pytest.fail(f"{RECIPE.name} changed: put it back, or run every published result again and record it in "
                    "docs/results/frozen.md")


def test_the_published_recipe_gives_the_frozen_rows() -> None:
    recipe = load_recipe(RECIPE)
    settings = settings_of(recipe)
    walk = walk_of(settings, np.arange(BLOCK), unix_day(recipe.days.first) if recipe.days else 0)
    slates = slates_of(settings, walk)
    digest = hashlib.sha256()
    for part in (walk.time, walk.scene, walk.item, slates.item, slates.trigger, slates.clicked):
        digest.update(np.ascontiguousarray(part, dtype="<i8").tobytes())
    assert digest.hexdigest() == recorded()[1]


def test_the_published_recipe_writes_out_every_setting() -> None:
    recipe = load_recipe(RECIPE)
    assert set(recipe.simulator or {}) == set(type(settings_of(recipe)).model_fields)
