"""How good models are in a scenario they never saw: train on all scenarios but one, test on that one, for each in turn.

`prepare` encodes once; every (scenario, arm, seed) is then a run that needs no Spark, done when its result lies in the folder;
`jobs.unseen_report` pools the test pages of the held-out scenarios and compares the arms.
"""

import json
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError
from feature_store.home import cache_root, lake_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.revision import code_revision
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs.evaluate import save, tables
from jobs.held_out import hold_out, scenarios_of
from jobs.train import launch, spec_of
from jobs.train_models import Part, encoded, window_state
from models.artifact import load_artifact
from models.scoring import page_scores

FULL = "ccn"
_PREPARED, _RESULT, SCORES = "prepared.json", "result.json", "scores.npy"


@dataclass(frozen=True)
class Arm:
    """A model, and what differs from its settings in the recipe."""

    model: str
    settings: dict[str, Any] = field(default_factory=dict)


ARMS: dict[str, Arm] = {
    FULL: Arm(FULL), "din": Arm("din"), "dihn": Arm("dihn"), "dei2n": Arm("dei2n"),
    "no pairs": Arm(FULL, {"attract": 0.0, "repel": 0.0}), "permuted labels": Arm(FULL, {"labels": "permuted"}),
    "supcon": Arm(FULL, {"form": "supcon"}), "attraction alone": Arm(FULL, {"repel": 0.0}),
    "repulsion alone": Arm(FULL, {"attract": 0.0}), "no co-non-click": Arm(FULL, {"pair_weights": (1.0, 0.0, 1.0)}),
}
DEFAULT_ARMS = (FULL, "din", "dihn", "dei2n", "no pairs", "permuted labels")


@dataclass(frozen=True)
class Prepared:
    """Encoded rows of all scenarios by window, and the test pages of each scenario, most first."""

    folder: Path
    all: Part
    pages: dict[str, int]

    def held_out(self, scenario: str) -> Part:
        """The rows with this scenario held out; made when they are not there yet. Raises ModelError for one that there is not."""
        if scenario not in self.pages:
            raise ModelError(f"no test page is of scenario {scenario!r}; the scenarios are {', '.join(self.pages)}")
        return hold_out(self.all.sets, Vocabulary.load(self.all.vocabulary), scenario, self.folder / "scenarios" / _slug(scenario))

    def out(self, scenario: str, arm: str, seed: int) -> Path:
        """Folder of one run."""
        return self.folder / "runs" / f"{_slug(scenario)}-{_slug(arm)}-{seed}"


def _slug(name: str) -> str:
    """A file name for any text."""
    plain = "".join(c if c.isascii() and c.isalnum() else "_" for c in name)[:40]
    return plain if plain == name else f"{plain}-{fingerprint({'name': name})[:8]}"


def arms_of(recipe: Recipe) -> list[str]:
    """The arms whose model the recipe names."""
    return [name for name, arm in ARMS.items() if arm.model in recipe.models]


def prepare(conf: str | Path, ds: str | None = None, spark: Any = None) -> Prepared:
    """Encode the window that ends with `ds` (None: the newest day), or find it; Spark is started when nothing was prepared yet.

    Raises
    ------
    ModelError : the recipe names no model that there is an arm for. TableError : days are missing.
    """
    recipe = load_recipe(conf)
    arms = arms_of(recipe)
    if not arms:
        known = ", ".join(dict.fromkeys(arm.model for arm in ARMS.values()))
        raise ModelError(f"recipe {recipe.name} names none of the models {known} under `models`")
    lake = Lake(lake_root(recipe.name))
    found = window_state(recipe, ARMS[arms[0]].model, lake, ds)
    folder = cache_root(recipe.name) / "unseen" / f"{found.fingerprint}-{code_revision()}"
    if not (folder / _PREPARED).is_file():
        part = encoded(recipe, ARMS[arms[0]].model, lake, found.day, folder / "pages", spark)[0]
        pages = scenarios_of(part.sets["test"], Vocabulary.load(part.vocabulary))
        save({"sets": {role: own.folder for role, own in part.sets.items()}, "vocabulary": str(part.vocabulary), "pages": pages},
             folder / _PREPARED)
    content = json.loads((folder / _PREPARED).read_text())
    sets = {role: EncodedSet.load(own) for role, own in content["sets"].items()}
    return Prepared(folder, Part(sets, Path(content["vocabulary"])), content["pages"])


def chosen(recipe: Recipe, prepared: Prepared, scenarios: Iterable[str], arms: Iterable[str],
           largest: int) -> tuple[list[str], list[str]]:
    """The scenarios and arms asked for; none asked for: the `largest` scenarios by test pages, and the default arms of the recipe.

    Raises
    ------
    ModelError : there is no such scenario or arm.
    """
    known, (scenarios, arms) = arms_of(recipe), (list(scenarios), list(arms))
    for arm in arms:
        if arm not in known:
            raise ModelError(f"no arm {arm!r} for recipe {recipe.name}; the arms are {', '.join(known)}")
    for scenario in scenarios:
        if scenario not in prepared.pages:
            raise ModelError(f"no test page is of scenario {scenario!r}; the scenarios are {', '.join(prepared.pages)}")
    return scenarios or list(prepared.pages)[:largest], arms or [arm for arm in DEFAULT_ARMS if arm in known]


def unfinished(prepared: Prepared, scenarios: Iterable[str], arms: Iterable[str], seeds: int) -> list[tuple[str, str, int]]:
    """The (scenario, arm, seed) that have no result yet, seed after seed."""
    scenarios, arms = list(scenarios), list(arms)
    return [(scenario, arm, seed) for seed in range(1, seeds + 1) for scenario in scenarios for arm in arms
            if not (prepared.out(scenario, arm, seed) / _RESULT).is_file()]


def run(conf: str | Path, prepared: Prepared, scenario: str, arm: str, seed: int) -> dict[str, Any]:
    """Train one arm with one seed without a scenario and score the test pages of that one, or read the result back."""
    out = prepared.out(scenario, arm, seed)
    if (out / _RESULT).is_file():
        return json.loads((out / _RESULT).read_text())
    started, recipe, part = time.perf_counter(), load_recipe(conf), prepared.held_out(scenario)
    model, settings = ARMS[arm].model, ARMS[arm].settings
    own = recipe.with_model(model, {**recipe.models[model], **settings, "seed": seed})
    spec = spec_of(own, model, part.sets["train"], part.sets["validate"], out / "model", part.vocabulary, True, None)
    launch(spec, 1, "process")
    trained = load_artifact(out / "model")
    scores = [page_scores(trained, rows) for rows in tables(part.sets["test"])]
    np.save(out / SCORES, np.concatenate([np.zeros(0), *scores]))
    history = json.loads((out / "model" / _RESULT).read_text())["history"]
    found = {"scenario": scenario, "arm": arm, "seed": seed, "seconds": time.perf_counter() - started, "history": history,
             "pages": part.sets["test"].rows}
    save(found, out / _RESULT)
    return found


def finished(prepared: Prepared) -> list[dict[str, Any]]:
    """The results that lie there."""
    return [json.loads(path.read_text()) for path in sorted(prepared.folder.glob(f"runs/*/{_RESULT}"))]
