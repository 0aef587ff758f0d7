"""two_tower, tarq and exact target attention over seeds on the rows of a recipe, whose tables are built: docs/results/tarq.md.

    PYTHONPATH=. python benchmarks/tarq.py train  --conf conf/simulated_published.yaml --seeds 5    what is finished is skipped
    PYTHONPATH=. python benchmarks/tarq.py report --conf conf/simulated_published.yaml

`report` prints the means, differences of arms (users resampled, pairwise, and seeds: `jobs.comparison.apart`), the share of the gap
between two_tower and exact attention that tarq closes, how much of long lists of candidates each keeps (`candidates` of the recipe,
`models.list_metrics`), the use of its codes with and without the alignment loss, and what int8 tables lose. Settings of an arm are
those that the recipe gives its model, else the defaults; `--settings` changes those of all. Times are those of the processor, so
that a run that was paused tells the same; `--minutes` begins no run after so many of them.
"""

import argparse
import json
import math
import statistics
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedSet
from feature_store.home import cache_root, lake_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.revision import code_revision
from feature_store.session import spark_session
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs.candidates import candidate_lists
from jobs.comparison import apart, by_arm, markdown
from jobs.evaluate import evaluate, save, tables
from jobs.snapshot import Snapshot
from jobs.train import launch, spec_of
from jobs.train_models import Part, encoded, window_state
from models import metrics
from models.artifact import load_artifact
from models.base import Model
from models.evaluation import headline
from models.list_metrics import AT, Lists, judged, kept
from models.metrics import Floats
from models.progress import compared_by
from models.quantised import quantise_tables, table_bytes
from models.scoring import page_scores, slices
from models.tarq import Tarq, teacher_of

METRICS = ("gauc", "page_gauc", "auc", "log_loss")
LOWER, STUDENT, UPPER = "two_tower", "tarq", "target_attention"
_LISTS, _LISTS_AT_ONCE = "lists.parquet", 32
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
    """Encoded rows, lists of candidates with counts of what they lack, settings all arms share, and the folder of the runs."""

    part: Part
    lists: pa.Table
    asked: dict[str, int]
    settings: dict[str, Any]
    folder: Path

    def out(self, arm: str, seed: int) -> Path:
        """Folder of one run."""
        return self.folder / f"{arm.replace(' ', '_').replace('=', '')}-{seed}"


def prepare(conf: Path, settings: dict[str, Any]) -> Prepared:
    """Encode the newest window and the lists of candidates, or find them."""
    recipe = load_recipe(conf)
    recipe = recipe.with_model(STUDENT, recipe.models.get(STUDENT, {}))
    found = window_state(recipe, STUDENT, Lake(lake_root(recipe.name)), None)
    asked = fingerprint(recipe.candidates.model_dump())[:8]
    folder = cache_root(recipe.name) / "preranking" / f"{found.fingerprint}-{asked}-{code_revision()}"
    marker = folder / "prepared.json"
    if not marker.is_file():
        save(_encode(conf, recipe, found, folder), marker)
    content = json.loads(marker.read_text())
    part = Part({role: EncodedSet.load(own) for role, own in content["sets"].items()}, Path(content["vocabulary"]))
    return Prepared(part, pq.read_table(folder / _LISTS), content["asked"], settings, folder / fingerprint(settings)[:8])


def _encode(conf: Path, recipe: Recipe, found: Snapshot, folder: Path) -> dict[str, Any]:
    """Everything that needs Spark, in one session; what the marker holds."""
    lake, spark = Lake(lake_root(recipe.name)), spark_session("moveline-preranking")
    try:
        part = encoded(recipe, STUDENT, lake, found.day, folder, spark)[0]
        lists = candidate_lists(spark, recipe, lake, found.day, Vocabulary.load(part.vocabulary), str(conf))
    finally:
        spark.stop()
    pq.write_table(lists.pages, folder / _LISTS)
    return {"sets": {role: own.folder for role, own in part.sets.items()}, "vocabulary": str(part.vocabulary),
            "asked": {"pages": lists.asked, "clicks": lists.clicks}}


def train(recipe: Recipe, prepared: Prepared, arms: list[str], seeds: int, minutes: float) -> None:
    """Every arm with every seed; nothing is begun after so many minutes of the processor."""
    started = time.process_time()
    todo = [(seed, arm) for seed in range(1, seeds + 1) for arm in arms if not (prepared.out(arm, seed) / "result.json").is_file()]
    for seed, arm in todo:
        if time.process_time() - started > 60 * minutes:
            print(f"{minutes:g} minutes are over: {arm}, seed {seed}, and what follows it, are not begun", flush=True)
            return
        found = run(recipe, prepared, arm, seed)
        print(f"{arm}, seed {seed}: gauc {found['metrics']['test.gauc']:.4f} in {found['seconds']:.0f} s", flush=True)


def run(recipe: Recipe, prepared: Prepared, name: str, seed: int) -> dict[str, Any]:
    """Train and judge one arm with one seed."""
    started, arm, out = time.process_time(), ARMS[name], prepared.out(name, seed)
    known = set(load_class_fields(arm.model))
    shared = {key: value for key, value in prepared.settings.items() if key in known}
    own = recipe.with_model(arm.model, {**recipe.models.get(arm.model, {}), **shared, **arm.settings, "seed": seed})
    sets = prepared.part.sets
    spec = spec_of(own, arm.model, sets["train"], sets["validate"], out / "model", prepared.part.vocabulary, True, None)
    launch(spec, 1, "process")
    result = evaluate(out / "model", sets["train"], sets["test"])
    history = json.loads((out / "model" / "result.json").read_text())["history"]
    model = load_artifact(out / "model")
    listed = {key: own for key, own in judge_lists(model, prepared.lists, out).items() if math.isfinite(own[0])}
    values = headline(result) | {f"test.{key}": value for key, (value, _) in listed.items()}
    draws = {metric: result["draws"][metric] for metric in METRICS} | {key: plain(own) for key, (_, own) in listed.items()}
    found = {"arm": name, "seed": seed, "metrics": values, "draws": draws, "history": history, "int8": int8(model, sets["test"]),
             "seconds": time.process_time() - started}
    save(found, out / "result.json")
    return found


def judge_lists(model: Model, lists: pa.Table, out: Path) -> dict[str, tuple[float, Floats]]:
    """Hit rates of the lists, and of tarq how much of its own teacher's best it keeps; the scores are kept in the folder."""
    scores = list_scores(model, lists)
    np.save(out / "lists.npy", scores.astype(np.float32))
    return judged(Lists.of(lists), scores, list_scores(teacher_of(model), lists) if isinstance(model, Tarq) else None)


def plain(draws: Floats) -> list[float | None]:
    """As JSON has it; nan is null."""
    return [float(value) if math.isfinite(value) else None for value in draws]


def list_scores(model: Model, lists: pa.Table) -> Floats:
    """[N] scores of all candidates."""
    return np.concatenate([page_scores(model, part) for part in slices(lists, _LISTS_AT_ONCE)])


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
    print(markdown(["arm", "seeds", *METRICS, "seconds a run"], [
        [arm, str(len(found[arm])), *(f"{_mean(found[arm], m):.4f}" for m in METRICS),
         f"{statistics.fmean(own['seconds'] for own in found[arm].values()):.0f}"] for arm in arms]))
    pairs = [(left, right) for left, right in SHOWN if left in found and right in found]
    print(markdown(["difference", *METRICS[:3], "detectable (GAUC)"], [
        [f"{left} − {right}", *(str(apart(found[left], found[right], m)) for m in METRICS[:3]),
         f"{apart(found[left], found[right], 'gauc').detectable:.4f}"] for left, right in pairs]))
    if all(arm in found for arm in (LOWER, STUDENT, UPPER)):
        gap = apart(found[UPPER], found[LOWER], "gauc")
        value, low, high = closed(*(found[arm] for arm in (LOWER, STUDENT, UPPER)))
        clear = "clear" if gap.value >= _CLEAR and gap.low > 0 else "not clear: its share says little"
        print(f"share of the gap closed: {value:.0%} [{low:.0%}, {high:.0%}]; the gap of {gap.value:+.4f} is {clear}\n")
    report_lists(prepared, found, arms, pairs)
    coded = [arm for arm in arms if ARMS[arm].model == STUDENT]
    forms = {"use": ".1%", "entropy": ".3f", "most_frequent_share": ".1%"}
    print(markdown(["arm", "codes in use", "entropy", "share of the most frequent"], [
        [arm, *(f"{_code(found[arm], name):{form}}" for name, form in forms.items())] for arm in coded]))
    sizes = {arm: {key: _int8(found[arm], key) for key in found[arm][min(found[arm])]["int8"]} for arm in arms}
    print(markdown(["arm", "AUC, int8 − float32", "bytes of the tables", "as int8"], [
        [arm, f"{own['int8.auc'] - own['float32.auc']:+.5f}", f"{own['float32.bytes']:,.0f}", f"{own['int8.bytes']:,.0f}"]
        for arm, own in sizes.items()]))


def report_lists(prepared: Prepared, found: dict[str, dict[int, Any]], arms: list[str], pairs: list[tuple[str, str]]) -> None:
    """What the arms keep of the lists of candidates."""
    lists = Lists.of(prepared.lists)
    sizes = np.bincount(lists.page, minlength=1)
    longer = ", ".join(f"{int((sizes > k).sum()):,} longer than {k}" for k in AT)
    print(f"lists: {len(prepared.lists):,} of {prepared.asked['pages']:,} pages, {longer}; median length {np.median(sizes):,.0f}; "
          f"{lists.clicked.sum():,.0f} of {prepared.asked['clicks']:,} clicks lie on them\n")
    # Of lists that are all short nothing is defined.
    most = [k for k in AT if all(f"test.hit_{k}" in own["metrics"] for arm in arms for own in found[arm].values())]
    if not most:
        return
    hits, own = [f"hit_{k}" for k in most], [f"teacher_{k}" for k in most]
    heads = ["arm", *hits, *(f"own teacher's {k}" for k in most), *(f"{UPPER}'s {k}" for k in most)]
    print(markdown(heads, [[arm, *(f"{_mean(found[arm], m):.4f}" for m in hits),
                            *(f"{_mean(found[arm], m):.4f}" if ARMS[arm].model == STUDENT else "–" for m in own),
                            *(_agreement(prepared, lists, found, arm, k) for k in most)] for arm in arms]))
    print(markdown(["difference", *hits], [
        [f"{left} − {right}", *(str(apart(found[left], found[right], m)) for m in hits)] for left, right in pairs]))


def _agreement(prepared: Prepared, lists: Lists, found: dict[str, dict[int, Any]], arm: str, k: int) -> str:
    """Mean share of the best k of exact attention, of the same seed (its own: of the next one), that an arm keeps."""
    seeds = sorted(found.get(UPPER, {}))
    other = dict(zip(seeds, seeds if arm != UPPER else [*seeds[1:], *seeds[:1]], strict=True))
    both = [(prepared.out(arm, s), prepared.out(UPPER, o)) for s, o in other.items() if s in found[arm] and (arm, s) != (UPPER, o)]
    values = [kept(lists, *(np.load(folder / "lists.npy").astype(np.float64) for folder in pair), k).value for pair in both]
    return f"{statistics.fmean(values):.4f}" if values else "–"


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
    parser.add_argument("--minutes", type=float, default=float("inf"), help="begin no further run after so many, of the processor")
    parser.add_argument("--settings", type=json.loads, default={}, help='for all arms that know them, as JSON: \'{"dim": 16}\'')
    given = parser.parse_args()
    prepared = prepare(given.conf, given.settings)
    if given.step == "train":
        train(load_recipe(given.conf), prepared, given.arms.split(","), given.seeds, given.minutes)
    report(prepared)


if __name__ == "__main__":
    main()
