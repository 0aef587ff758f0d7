"""The ablation of a model: every arm is the recipe with some settings changed, trained on the same rows with the same seeds.

`prepare` encodes once; every (arm, seed) is then a process of its own that needs no Spark, and is done when its result lies in the
folder; `collect` compares the arms. Generators are shared by the arms whose generator has the same settings.
"""

import json
import shutil
import statistics
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError
from feature_store.home import cache_root, lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.revision import code_revision
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs.comparison import Apart, apart, by_arm
from jobs.evaluate import evaluate, save
from jobs.futures import futures_of_pages, oracle_flow
from jobs.train import launch, spec_of
from jobs.train_models import Part, encoded, train_parts, window_state
from models.evaluation import headline
from models.generator import Generator, cached_flow

FULL = "amen"
METRICS = ("gauc", "page_gauc", "auc", "log_loss")
_PREPARED, _RESULT = "prepared.json", "result.json"


@dataclass(frozen=True)
class Arm:
    """What differs from the full model.

    Attributes
    ----------
    settings, generator : changed settings of the model, and of its generator. model : which model is trained.
    flow : the generator's own flow, that of a page of another user, or the true next items (which no generator can beat).
    """

    settings: dict[str, Any] = field(default_factory=dict)
    generator: dict[str, Any] = field(default_factory=dict)
    model: str = FULL
    flow: Literal["own", "shuffled", "oracle"] = "own"


ARMS: dict[str, Arm] = {
    FULL: Arm(), "din": Arm(model="din"), "no NIF": Arm({"generator": ""}), "no diversity": Arm(generator={"diversity": 0.0}),
    "no velocity": Arm(generator={"velocity": 0.0}), "no SAM": Arm({"sam": "none"}), "no init": Arm({"init": False}),
    "no TSP": Arm({"tsp": "none"}), "TSP on a page": Arm({"tsp": "control"}), "sphere": Arm(generator={"form": "sphere"}),
    **{f"K = {k}": Arm({"future": k}, {"future": k}) for k in (1, 2, 4, 8, 16)},
    "shuffled flow": Arm(flow="shuffled"), "future oracle": Arm(flow="oracle"),
}


def arms_of(recipe: Recipe) -> list[str]:
    """The arms that a recipe's rows allow: a flow is no longer than the futures of the table `flows`; the full model is one K."""
    full = int(recipe.models.get(FULL, {}).get("future", 8))
    return [name for name, arm in ARMS.items()
            if (k := arm.settings.get("future")) is None or (k <= recipe.flows.future and k != full)]


@dataclass(frozen=True)
class Prepared:
    """Encoded rows of an ablation: of the model, and of its generator by fold; raw futures of the pages by window."""

    folder: Path
    model: Part
    generator: list[Part]
    futures: dict[str, Path]


def ablation_folder(recipe: Recipe, found: str) -> Path:
    """Where an ablation lies, by the tables it reads and the code."""
    return cache_root(recipe.name) / "ablation" / f"{FULL}-{found}-{code_revision()}"


def prepare(conf: str | Path, ds: str | None = None, model: str = FULL, spark: Any = None) -> Prepared:
    """Encode what the arms train on, or find it; Spark is started when nothing was prepared yet.

    Raises
    ------
    ModelError : there are no arms for the model, or the recipe names it without a generator. TableError : days are missing.
    """
    if model != FULL:
        raise ModelError(f"there is no ablation of {model!r}; there is one of {FULL}")
    recipe = load_recipe(conf)
    found = window_state(recipe, FULL, Lake(lake_root(recipe.name)), ds)
    generator = recipe.generator_of(FULL)
    if not generator:
        raise ModelError(f"recipe {recipe.name}: models.{FULL} has no `generator` to leave out; set `generator: nif`")
    folder = ablation_folder(recipe, found.fingerprint)
    if not (folder / _PREPARED).is_file():
        lake = Lake(lake_root(recipe.name))
        pages = encoded(recipe, FULL, lake, found.day, folder / "pages", spark)
        flows = encoded(recipe, generator, lake, found.day, folder / "flows", spark)
        futures = futures_of_pages(recipe, lake, pages[0].sets, folder / "futures", spark)
        content = {"pages": _plain(pages), "flows": _plain(flows), "futures": {name: str(path) for name, path in futures.items()}}
        save(content, folder / _PREPARED)
    return _prepared(folder)


def _plain(parts: list[Part]) -> list[dict[str, Any]]:
    return [{"sets": {role: own.folder for role, own in part.sets.items()}, "vocabulary": str(part.vocabulary)} for part in parts]


def _prepared(folder: Path) -> Prepared:
    content = json.loads((folder / _PREPARED).read_text())
    pages, flows = ([Part({role: EncodedSet.load(own) for role, own in part["sets"].items()}, Path(part["vocabulary"]))
                     for part in content[key]] for key in ("pages", "flows"))
    return Prepared(folder, pages[0], flows, {name: Path(path) for name, path in content["futures"].items()})


def unfinished(recipe: Recipe, prepared: Prepared, arms: Iterable[str], seeds: int) -> list[tuple[str, int]]:
    """The (arm, seed) that have no result yet, seed after seed. Raises ModelError for an arm that there is not."""
    known = arms_of(recipe)
    for arm in arms:
        if arm not in known:
            raise ModelError(f"no arm {arm!r} for recipe {recipe.name}; the arms are {', '.join(known)}")
    return [(arm, seed) for seed in range(1, seeds + 1) for arm in arms if not (_out(prepared, arm, seed) / _RESULT).is_file()]


def _out(prepared: Prepared, arm: str, seed: int) -> Path:
    return prepared.folder / "arms" / f"{arm.replace(' ', '_')}-{seed}"


def run_arm(conf: str | Path, prepared: Prepared, name: str, seed: int) -> dict[str, Any]:
    """Train and judge one arm with one seed, or read the result back: metrics, and the history of its training."""
    path = _out(prepared, name, seed) / _RESULT
    if path.is_file():
        return json.loads(path.read_text())
    started, arm, recipe = time.perf_counter(), ARMS[name], load_recipe(conf)
    own = _recipe_of(recipe, arm, seed)
    generator = _generator(own, arm, prepared, seed) if own.generator_of(arm.model) else None
    sets, out = prepared.model.sets, path.parent / "model"
    spec = spec_of(own, arm.model, sets["train"], sets["validate"], out, prepared.model.vocabulary, True, None, generator)
    flow = _flows(arm, prepared, generator) if generator and arm.flow != "own" else {}
    if flow:
        spec = spec.model_copy(update={"flow": flow["train"], "validate_flow": flow.get("validate"),
                                       "checkpoints": f"{spec.checkpoints}-{arm.flow}"})
    launch(spec, 1, "process")
    truth = raw_root(recipe.name) / "truth" if recipe.simulator is not None else None
    result = evaluate(out, sets["train"], sets["test"], truth, flow.get("test"))
    history = json.loads((out / _RESULT).read_text())["history"]
    found = {"arm": name, "seed": seed, "seconds": time.perf_counter() - started, "metrics": headline(result), "history": history,
             "draws": {metric: result["draws"][metric] for metric in METRICS}}
    save(found, path)
    return found


def shared(recipe: Recipe, prepared: Prepared, todo: Iterable[tuple[str, int]]) -> list[tuple[str, int]]:
    """The (arm, seed) to be made `ready` first: one for each generator that arms share and that is not there yet."""
    first: dict[Path, tuple[str, int]] = {}
    for name, seed in todo:
        arm = ARMS[name]
        own = _recipe_of(recipe, arm, seed)
        if own.generator_of(arm.model):
            first.setdefault(_generator_folder(own, arm, prepared, seed)[0], (name, seed))
    return [run for folder, run in first.items() if not folder.is_dir()]


def ready(conf: str | Path, prepared: Prepared, name: str, seed: int) -> None:
    """Train the generator of an arm and compute its flow, which other arms read too."""
    arm = ARMS[name]
    generator = _generator(_recipe_of(load_recipe(conf), arm, seed), arm, prepared, seed)
    frozen = Generator(generator, Vocabulary.load(prepared.model.vocabulary))
    for pages in prepared.model.sets.values():
        if pages.rows:
            cached_flow(pages, frozen)


def _recipe_of(recipe: Recipe, arm: Arm, seed: int) -> Recipe:
    return recipe.with_model(arm.model, {**recipe.models.get(arm.model, {}), **arm.settings, "seed": seed})


def _generator_folder(recipe: Recipe, arm: Arm, prepared: Prepared, seed: int) -> tuple[Path, dict[str, Any]]:
    """Where the generator of an arm lies, and its settings."""
    settings = {**recipe.models[recipe.generator_of(arm.model)], **arm.generator, "seed": seed}
    return prepared.folder / "generators" / fingerprint(settings), settings


def _generator(recipe: Recipe, arm: Arm, prepared: Prepared, seed: int) -> Path:
    """The generator of an arm, trained once for all arms with the same settings and seed."""
    name = recipe.generator_of(arm.model)
    folder, settings = _generator_folder(recipe, arm, prepared, seed)
    if not folder.is_dir():
        aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        try:
            train_parts(recipe.with_model(name, settings), name, prepared.generator, aside)
            if not folder.is_dir():  # else another arm has made the same one meanwhile
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return folder / "model"


def _flows(arm: Arm, prepared: Prepared, generator: Path) -> dict[str, str]:
    """Files with another flow than the generator's own, by window."""
    frozen, found = Generator(generator, Vocabulary.load(prepared.model.vocabulary)), {}
    for role, pages in prepared.model.sets.items():
        if pages.rows:
            own = cached_flow(pages, frozen)
            path = own.with_name(own.name.replace("flow-", f"flow-{arm.flow}-"))
            flow = _of_others(np.load(own)) if arm.flow == "shuffled" else oracle_flow(pages, frozen, prepared.futures[role])
            aside = path.with_name(f".{uuid.uuid4().hex}.npy")
            np.save(aside, flow)
            found[role] = str(aside.replace(path))
    return found


def _of_others(flow: np.ndarray) -> np.ndarray:
    """The flow of the page half a set away: pages of a user lie together, so that it is another user's."""
    return np.roll(flow, len(flow) // 2, axis=0)


@dataclass(frozen=True)
class Row:
    """One arm in the table: mean of a metric over the seeds, and the full model minus the arm, over the seeds that both have."""

    arm: str
    seeds: int
    means: dict[str, float]
    apart: dict[str, Apart]


def compare(results: Iterable[dict[str, Any]]) -> list[Row]:
    """The arms in the order of `ARMS`, each beside the full model (`apart`)."""
    found = by_arm(results)
    full = found.get(FULL, {})
    rows = []
    for arm in (name for name in ARMS if name in found):
        means = {m: statistics.fmean(r["metrics"][f"test.{m}"] for r in found[arm].values()) for m in METRICS}
        rows.append(Row(arm, len(found[arm]), means, {m: apart(full, found[arm], m) for m in METRICS}))
    return rows


def finished(prepared: Prepared) -> list[dict[str, Any]]:
    """The results that lie there."""
    return [json.loads(path.read_text()) for path in sorted(prepared.folder.glob(f"arms/*/{_RESULT}"))]
