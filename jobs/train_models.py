"""The whole of one model: encode, train, evaluate, register, gate. Each stage's result is kept, so that a run that was cut
short goes on where it stopped, and tables that a version was trained on already are not trained on again."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError, TableError
from feature_store.home import cache_root, lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.revision import code_revision
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs.encode import encode_training
from jobs.evaluate import evaluate, evaluate_generator, save
from jobs.gate import DECISION
from jobs.register import Judged, register
from jobs.snapshot import Snapshot, snapshot, tables_of
from jobs.train import TrainResult, check_processes, train
from jobs.warm import champion, check_fits
from models.artifact import VOCABULARY
from models.catalog import model_class
from models.generator import part_folder, seal
from models.registry import CHAMPION, Fetched, Registry, Version

log = logging.getLogger("moveline.train")
FINISHED = {DECISION, f"alias.{CHAMPION}"}
"""Tags of which a version has one when nothing is left to do for it."""

_RESULT = "result.json"
T = TypeVar("T")
_SHOWN = ("auc", "gauc", "ndcg_5", "log_loss", "recall_50", "recall_200")


@dataclass(frozen=True)
class TrainedModel:
    """A registered version and how good it is.

    Attributes
    ----------
    version : the registered version. day, fingerprint : what it was trained on. metrics : `test.auc`, `test.popularity.auc`, ...
    folder : stages of the run. seconds : wall time. reused : the version was there already.
    """

    version: Version
    day: str
    fingerprint: str
    metrics: dict[str, float]
    folder: Path
    seconds: float
    reused: bool

    def __str__(self) -> str:
        found = ", ".join(f"{name} {self.metrics[f'test.{name}']:.4f}" for name in _SHOWN if f"test.{name}" in self.metrics)
        how = "was registered already for these tables" if self.reused else f"registered in {self.seconds:.0f} s"
        return (f"{self.version.name} version {self.version.version} {how}; gate {self.version.tags.get(DECISION, '(not asked)')}; "
                f"alias {', '.join(self.version.aliases) or '(none)'}; test: {found or 'no metric is defined on these rows'}")


def train_model(conf: str | Path, model: str, ds: str | None = None, fingerprint: str | None = None, *,
                spark: Any = None, processes: int = 1, warm: bool = False) -> TrainedModel:
    """Train a model of a recipe on the days that end with `ds`, judge and register it; the gate decides if it is champion.

    Parameters
    ----------
    ds : last day of the window; None takes the newest day of the tables. fingerprint : of the tables as the caller saw them; that
        they changed since is only noted, for what counts is what they are now.
    spark : session to encode with; None starts one when it is needed and stops it again. processes : ranks that train.
    warm : start from the weights of the champion, whose vocabulary may have grown since; its version is kept as tag `warm_from`.

    Raises
    ------
    ModelError : the recipe has no such model, its generator is not registered, or a warm start has no champion that fits.
    TableError : days are missing; names them.
    """
    started = time.perf_counter()
    recipe = load_recipe(conf)
    check_processes(processes)
    found = window_state(recipe, model, Lake(lake_root(recipe.name)), ds)
    if fingerprint and fingerprint != found.fingerprint:
        log.info("the tables changed since %s was seen: training on %s", fingerprint, found.fingerprint)
    registry = Registry()
    version = registry.find(f"{recipe.name}-{model}", found.fingerprint)
    # A run that was cut short between registering and the gate's decision is finished by `register`.
    reused = version is not None and bool(FINISHED & set(version.tags))
    start = champion(registry, f"{recipe.name}-{model}") if warm and not reused else None
    folder = run_folder(recipe, model, found.fingerprint, start)
    if version is None or not reused:
        version = _make(recipe, model, found, folder, registry, spark, processes, start)
    seconds = time.perf_counter() - started
    return TrainedModel(version, found.day, found.fingerprint, registry.metrics(version), folder, seconds, reused)


def window_state(recipe: Recipe, model: str, lake: Lake, ds: str | None) -> Snapshot:
    """The tables of the window that ends with `ds`. Raises as `train_model` does."""
    kind = model_class(model)
    if model not in recipe.models:
        known = ", ".join(recipe.models) or "none"
        raise ModelError(f"recipe {recipe.name} names no model {model!r} under `models`; it names {known}")
    kind.checked(recipe.models[model])
    days = [day for table in tables_of(recipe)[:1] for day in lake.table(table).days()]
    if not ds and not days:
        raise TableError(f"{recipe.name} has no {(tables_of(recipe) or ['pages'])[0]} yet; build them first with `moveline daily`")
    found = snapshot(recipe, lake, ds or days[-1])
    if found.reason:
        raise TableError(found.reason)
    return found


def _make(recipe: Recipe, model: str, found: Snapshot, folder: Path, registry: Registry, spark: Any, processes: int,
          start: Fetched | None) -> Version:
    lake = Lake(lake_root(recipe.name))
    generator = registered_generator(recipe, model, found.fingerprint, registry)
    parts = encoded(recipe, model, lake, found.day, folder, spark)
    trained = train_parts(recipe, model, parts, folder, generator, processes, start)
    result = judge(trained.folder, parts, folder, raw_root(recipe.name) / "truth" if recipe.simulator is not None else None)
    judged = Judged(model, trained.folder, found.day, found.fingerprint, trained.history, result, sets_of(parts),
                    start.version.uri if start else "", generator.version.uri.removeprefix("models:/") if generator else "")
    return register(recipe, lake, judged, folder, registry)


@dataclass(frozen=True)
class Part:
    """What one model of a run is trained on: its encoded sets by window, and the file of its vocabulary.

    A generator has one model, and so one part, a fold of users; every other run has one.
    """

    sets: dict[str, EncodedSet]
    vocabulary: Path


def encoded(recipe: Recipe, model: str, lake: Lake, day: str, folder: Path, spark: Any) -> list[Part]:
    """The encoded sets of a window (train, validate, test), and the vocabulary that a version will carry, of every fold."""
    reads = model_class(model).reads
    folds = recipe.split.generator_folds if reads == "flows" else 1
    found = _with_spark(spark, lambda session: [encode_training(session, recipe, lake, day, reads, n) for n in range(folds)])
    parts = []
    for fold, (sets, vocabulary) in enumerate(found):
        path = part_folder(folder, fold) / VOCABULARY
        path.parent.mkdir(parents=True, exist_ok=True)
        vocabulary.save(path)
        parts.append(Part(sets, path))
    return parts


def sets_of(parts: list[Part]) -> dict[str, EncodedSet]:
    """The encoded sets of all parts by role: `train`, ..., and of further folds `train-1`, ..."""
    return {role if fold == 0 else f"{role}-{fold}": own for fold, part in enumerate(parts) for role, own in part.sets.items()}


def registered_generator(recipe: Recipe, model: str, fingerprint: str, registry: Registry) -> Fetched | None:
    """The version of the model's generator that was trained on the same tables; None for a model without one.

    Raises
    ------
    ModelError : it is not registered yet; says which command trains it.
    """
    name = recipe.generator_of(model)
    if not name:
        return None
    version = registry.find(f"{recipe.name}-{name}", fingerprint)
    if version is None:
        raise ModelError(f"model {model} reads the flow of {name}, and no version of {recipe.name}-{name} was trained on these "
                         f"tables; run `moveline train_model {name}` first")
    return Fetched(version, registry.folder(version))


def train_parts(recipe: Recipe, model: str, parts: list[Part], folder: Path, generator: Fetched | None = None,
                processes: int = 1, start: Fetched | None = None) -> TrainResult:
    """Train the model of every part, all into one artifact; history and losses are those of the first."""
    runs = []
    for fold, part in enumerate(parts):
        if start is not None:
            check_fits(start, part.vocabulary)
        runs.append(train(recipe, model, part.sets["train"], part.sets["validate"], part_folder(folder / "model", fold),
                          vocabulary=part.vocabulary, processes=processes, generator=generator.folder if generator else None,
                          warm_from=part_folder(start.folder, fold) if start else None))
    if model_class(model).reads == "flows":
        seal(folder / "model", len(parts), max(part.sets[role].last_time for part in parts for role in ("train", "validate")))
    return TrainResult(runs[0].folder, runs[0].history, runs[0].losses, sum(run.seconds for run in runs))


def _with_spark(spark: Any, work: Callable[[Any], T]) -> T:
    if spark is not None:
        return work(spark)
    session = spark_session("moveline-train")
    try:
        return work(session)
    finally:
        # Training needs the memory more than it needs the session.
        session.stop()


def run_folder(recipe: Recipe, model: str, fingerprint: str, start: Fetched | None = None) -> Path:
    """Where the stages of one run lie, by what it is made from and by the code; safe to delete."""
    warm = f"-warm{start.version.version}" if start else ""
    return cache_root(recipe.name) / "runs" / f"{model}-{fingerprint}-{code_revision()}{warm}"


def judge(artifact: Path, parts: list[Part], folder: Path, truth: Path | None) -> dict[str, Any]:
    """The evaluation of a trained model; read back when the folder has it already."""
    path = folder / _RESULT
    if path.is_file():
        return json.loads(path.read_text())
    first = parts[0].sets
    if first["test"].kind == "flows":
        result = evaluate_generator(artifact, [part.sets for part in parts])
    else:
        result = evaluate(artifact, first["train"], first["test"], truth)
    save(result, path)
    return result
