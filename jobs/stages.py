"""The stages of `train_model` one by one: each keeps its result in the run's folder, and the next goes on from there."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from feature_store.home import lake_root, raw_root
from feature_store.recipe import load_recipe
from feature_store.tables import Lake
from jobs.train import TrainResult
from jobs.train_models import Part, encoded, judge, registered_generator, run_folder, train_parts, window_state
from models.registry import Registry


@dataclass(frozen=True)
class Trained:
    """A trained model that is not registered.

    Attributes
    ----------
    model, day : what, and the last day of its window. result : the run. parts : its encoded training sets. truth : folder of
        the simulator's truth, None for a real log.
    """

    model: str
    day: str
    folder: Path
    result: TrainResult
    parts: list[Part]
    truth: Path | None


def train_stage(conf: Path, model: str, ds: str | None) -> Trained:
    """Encode and train; done at once when it was done before. Raises as `train_model` does."""
    recipe = load_recipe(conf)
    lake = Lake(lake_root(recipe.name))
    found = window_state(recipe, model, lake, ds)
    folder = run_folder(recipe, model, found.fingerprint)
    generator = registered_generator(recipe, model, found.fingerprint, Registry()) if recipe.generator_of(model) else None
    parts = encoded(recipe, model, lake, found.day, folder, None)
    result = train_parts(recipe, model, parts, folder, generator)
    truth = raw_root(recipe.name) / "truth" if recipe.simulator is not None else None
    return Trained(model, found.day, folder, result, parts, truth)


def evaluate_stage(conf: Path, model: str, ds: str | None) -> dict[str, Any]:
    """Train (unless done) and judge on the test days; the result of `models.evaluation`."""
    trained = train_stage(conf, model, ds)
    return judge(trained.result.folder, trained.parts, trained.folder, trained.truth)
