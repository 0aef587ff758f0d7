"""two_tower, tarq and exact target attention over seeds on the rows of a recipe, whose tables are built: docs/results/tarq.md.

    PYTHONPATH=. python benchmarks/tarq.py train  --conf conf/simulated_published.yaml --seeds 5    what is finished is skipped
    PYTHONPATH=. python benchmarks/tarq.py report --conf conf/simulated_published.yaml

`report` prints the means, differences of arms (users resampled, pairwise, and seeds: `jobs.comparison.apart`), the share of the gap
between two_tower and exact attention that tarq closes, the use of its codes with and without the alignment loss, and what int8
tables lose. Settings of an arm are those that the recipe gives its model, else the defaults; `--settings` changes those of all.
"""

import argparse
import json
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from feature_store.encoded_set import EncodedSet
from feature_store.home import cache_root, lake_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.revision import code_revision
from feature_store.tables import Lake, fingerprint
from jobs.comparison import apart, by_arm, markdown
from jobs.evaluate import evaluate, save, tables
from jobs.train import launch, spec_of
from jobs.train_models import Part, encoded, window_state
from models import metrics
from models.artifact import load_artifact
from models.base import Model
from models.evaluation import headline
from models.progress import compared_by
from models.quantised import quantise_tables, table_bytes
from models.scoring import page_scores

METRICS = ("gauc", "page_gauc", "auc", "log_loss")
LOWER, STUDENT, UPPER = "two_tower", "tarq", "target_attention"
_CLEAR = 0.005
"""A gap of which a share is worth telling."""


@dataclass(frozen=True)
class Arm:
    """A model, and what differs from its settings."""

    model: str
    settings: dict[str, Any] = field(default_factory=dict)


ARMS: dict[str, Arm] = {
    LOWER: Arm(LOWER), STUDENT: Arm(STUDENT), UPPER: Arm(UPPER), "no alignment": Arm(STUDENT, {"align": 0.0}),
    "no reconstruction": Arm(STUDENT, {"reconstruct": 0.0}), "clicks alone": Arm(STUDENT, {"distil": 0.0}),
    "random books": Arm(STUDENT, {"begin": "random"}), "K = 16": Arm(STUDENT, {"codes": 16}),
    "K = 256": Arm(STUDENT, {"codes": 256}), "L = 1": Arm(STUDENT, {"levels": 1}), "L = 2": Arm(STUDENT, {"levels": 2}),
}
DEFAULT_ARMS = (LOWER, STUDENT, UPPER, "no alignment")
SHOWN = ((STUDENT, LOWER), (UPPER, LOWER), (UPPER, STUDENT), (STUDENT, "no alignment"))
"""Differences of the table: first minus second."""


@dataclass(frozen=True)
class Prepared:
    """Encoded rows, settings all arms share, and the folder of the runs."""

    part: Part
    settings: dict[str, Any]
    folder: Path

    def out(self, arm: str, seed: int) -> Path:
        """Folder of one run."""
        return self.folder / f"{arm.replace(' ', '_').replace('=', '')}-{seed}"


def prepare(conf: Path, settings: dict[str, Any]) -> Prepared:
    """Encode the newest window, or find it."""
    recipe = load_recipe(conf)
    recipe = recipe.with_model(STUDENT, recipe.models.get(STUDENT, {}))
    lake = Lake(lake_root(recipe.name))
    found = window_state(recipe, STUDENT, lake, None)
    folder = cache_root(recipe.name) / "preranking" / f"{found.fingerprint}-{code_revision()}"
    marker = folder / "prepared.json"
    if not marker.is_file():
        part = encoded(recipe, STUDENT, lake, found.day, folder, None)[0]
        save({"sets": {role: own.folder for role, own in part.sets.items()}, "vocabulary": str(part.vocabulary)}, marker)
    content = json.loads(marker.read_text())
    part = Part({role: EncodedSet.load(own) for role, own in content["sets"].items()}, Path(content["vocabulary"]))
    return Prepared(part, settings, folder / fingerprint(settings)[:8])


def train(recipe: Recipe, prepared: Prepared, arms: list[str], seeds: int) -> None:
    """Every arm with every seed."""
    for seed in range(1, seeds + 1):
        for arm in arms:
            if not (prepared.out(arm, seed) / "result.json").is_file():
                found = run(recipe, prepared, arm, seed)
                print(f"{arm}, seed {seed}: gauc {found['metrics']['test.gauc']:.4f} in {found['seconds']:.0f} s", flush=True)


def run(recipe: Recipe, prepared: Prepared, name: str, seed: int) -> dict[str, Any]:
    """Train and judge one arm with one seed."""
    started, arm, out = time.perf_counter(), ARMS[name], prepared.out(name, seed)
    known = set(load_class_fields(arm.model))
    shared = {key: value for key, value in prepared.settings.items() if key in known}
    own = recipe.with_model(arm.model, {**recipe.models.get(arm.model, {}), **shared, **arm.settings, "seed": seed})
    sets = prepared.part.sets
    spec = spec_of(own, arm.model, sets["train"], sets["validate"], out / "model", prepared.part.vocabulary, True, None)
    launch(spec, 1, "process")
    result = evaluate(out / "model", sets["train"], sets["test"])
    history = json.loads((out / "model" / "result.json").read_text())["history"]
    found = {"arm": name, "seed": seed, "seconds": time.perf_counter() - started, "metrics": headline(result), "history": history,
             "draws": {metric: result["draws"][metric] for metric in METRICS},
             "int8": int8(load_artifact(out / "model"), sets["test"])}
    save(found, out / "result.json")
    return found


def load_class_fields(model: str) -> list[str]:
    """Names of the settings of a model."""
    from models.catalog import model_class

    return list(model_class(model).config_type.model_fields)


def int8(model: Model, test: EncodedSet) -> dict[str, float]:
    """AUC and bytes of the tables, as trained and as int8."""
    rows = list(tables(test))
    clicked, weight = (np.concatenate([part[name].combine_chunks().flatten().to_numpy() for part in rows]).astype(np.float64)
                       for name in ("clicked", "weight"))
    found: dict[str, float] = {}
    for kind in ("float32", "int8"):
        model = quantise_tables(model) if kind == "int8" else model
        score = np.concatenate([page_scores(model, part) for part in rows])
        found |= {f"{kind}.auc": metrics.auc(clicked, score, weight), f"{kind}.bytes": table_bytes(model)}
    return found


def closed(lower: dict[int, Any], student: dict[int, Any], upper: dict[int, Any],
           metric: str = "gauc") -> tuple[float, float, float]:
    """Share of the gap between lower and upper that the student closes, and its 95 % bootstrap interval.

    A draw resamples the users (the same for all arms and seeds) and the seeds that all three have.
    """
    seeds = sorted(set(lower) & set(student) & set(upper))
    values = np.array([[own[s]["metrics"][f"test.{metric}"] for s in seeds] for own in (lower, student, upper)])
    draws = np.array([[own[s]["draws"][metric] for s in seeds] for own in (lower, student, upper)], float)
    picked = np.random.default_rng(0).integers(0, len(seeds), (draws.shape[2], len(seeds)))
    low, mid, high = (np.nanmean(own[picked, np.arange(draws.shape[2])[:, None]], 1) for own in draws)
    share = (mid - low) / (high - low)
    mean = values.mean(1)
    return float((mean[1] - mean[0]) / (mean[2] - mean[0])), *(float(q) for q in np.nanpercentile(share, [2.5, 97.5]))


def report(prepared: Prepared) -> None:
    """All tables on standard output."""
    found = by_arm(json.loads(path.read_text()) for path in sorted(prepared.folder.glob("*/result.json")))
    arms = [name for name in ARMS if name in found]
    print(markdown(["arm", "seeds", *METRICS], [
        [arm, str(len(found[arm])), *(f"{_mean(found[arm], m):.4f}" for m in METRICS)] for arm in arms]))
    pairs = [(left, right) for left, right in SHOWN if left in found and right in found]
    print(markdown(["difference", *METRICS[:3], "detectable (GAUC)"], [
        [f"{left} − {right}", *(str(apart(found[left], found[right], m)) for m in METRICS[:3]),
         f"{apart(found[left], found[right], 'gauc').detectable:.4f}"] for left, right in pairs]))
    if all(arm in found for arm in (LOWER, STUDENT, UPPER)):
        gap = apart(found[UPPER], found[LOWER], "gauc")
        value, low, high = closed(*(found[arm] for arm in (LOWER, STUDENT, UPPER)))
        clear = "clear" if gap.value >= _CLEAR and gap.low > 0 else "not clear: its share says little"
        print(f"share of the gap closed: {value:.0%} [{low:.0%}, {high:.0%}]; the gap of {gap.value:+.4f} is {clear}\n")
    coded = [arm for arm in arms if ARMS[arm].model == STUDENT]
    forms = {"use": ".1%", "entropy": ".3f", "most_frequent_share": ".1%"}
    print(markdown(["arm", "codes in use", "entropy", "share of the most frequent"], [
        [arm, *(f"{_code(found[arm], name):{form}}" for name, form in forms.items())] for arm in coded]))
    sizes = {arm: {key: _int8(found[arm], key) for key in found[arm][min(found[arm])]["int8"]} for arm in arms}
    print(markdown(["arm", "AUC, int8 − float32", "bytes of the tables", "as int8"], [
        [arm, f"{own['int8.auc'] - own['float32.auc']:+.5f}", f"{own['float32.bytes']:,.0f}", f"{own['int8.bytes']:,.0f}"]
        for arm, own in sizes.items()]))


def _mean(results: dict[int, Any], metric: str) -> float:
    return statistics.fmean(own["metrics"][f"test.{metric}"] for own in results.values())


def _int8(results: dict[int, Any], key: str) -> float:
    return statistics.fmean(own["int8"][key] for own in results.values())


def _code(results: dict[int, Any], name: str) -> float:
    """Mean over seeds, of the epoch that was kept."""
    best = [min(own["history"], key=compared_by) for own in results.values()]
    return statistics.fmean(row[f"validate_code_{name}"] for row in best)


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["train", "report"])
    parser.add_argument("--conf", type=Path, default=Path("conf/simulated_published.yaml"))
    parser.add_argument("--arms", default=",".join(DEFAULT_ARMS), help=f"of {', '.join(ARMS)}")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--settings", type=json.loads, default={}, help='for all arms that know them, as JSON: \'{"dim": 16}\'')
    given = parser.parse_args()
    prepared = prepare(given.conf, given.settings)
    if given.step == "train":
        train(load_recipe(given.conf), prepared, given.arms.split(","), given.seeds)
    report(prepared)


if __name__ == "__main__":
    main()
