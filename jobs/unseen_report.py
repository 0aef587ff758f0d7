"""The table and the picture of leave-one-scenario-out runs, and their place in MLflow."""

import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from feature_store.collate import flat, lengths
from feature_store.errors import ModelError
from feature_store.recipe import Recipe
from feature_store.vocabulary import Vocabulary
from jobs.comparison import Apart, apart, keep, markdown
from jobs.evaluate import tables
from jobs.unseen import ARMS, FULL, SCORES, Prepared, finished
from models import metrics
from models.baselines import Baselines
from models.bootstrap import Estimate, Resampler, estimate
from models.metrics import Floats, Ints, Ratio, firsts, sums_by
from models.registry import Registry
from models.report_plots import differences

METRICS = ("page_gauc", "gauc", "auc", "log_loss", "alike_5")
"""`alike_5`: of the five best items of a page with a trigger, the share that has the trigger's category."""

BASELINES = ("position", "popularity")
TABLE, PLOT = "unseen.md", "unseen.svg"
_TOP = 5
_TRAIN_COLUMNS = ["candidate_item", "candidate_position", "clicked", "weight"]
_TEST_COLUMNS = ["user_id", "moveline_item", "candidate_item", "candidate_position", "candidate_category", "trigger_category",
                 "seen_before", "clicked", "weight"]


@dataclass(frozen=True)
class Pooled:
    """The test pages of all held-out scenarios together. N shown items.

    Attributes
    ----------
    user : [N] number of the user, whatever the scenario. group : [N] number of the user in one scenario. page, scenario : [N].
    clicked, weight : [N]. alike : [N] has the trigger's category. triggered : [N] on a page whose trigger's category is known.
    scores : (arm, seed) -> [N]. names : of the scenarios.
    """

    user: Ints
    group: Ints
    page: Ints
    scenario: Ints
    clicked: Floats
    weight: Floats
    alike: NDArray[np.bool_]
    triggered: NDArray[np.bool_]
    scores: Mapping[tuple[str, int], Floats]
    names: Sequence[str]


@dataclass(frozen=True)
class Row:
    """One arm: its metrics over users, the mean over its seeds, and how much the full model is apart from it."""

    arm: str
    seeds: int
    metrics: dict[str, Estimate]
    apart: dict[str, Apart]


def pooled(prepared: Prepared) -> Pooled:
    """The scenarios that were held out so far, with the scores of every arm and seed that is done in all of them, and those of the
    trivial baselines. An arm and seed that is not through yet is left out.

    Raises
    ------
    ModelError : there is none that is.
    """
    done = {(r["scenario"], r["arm"], r["seed"]) for r in finished(prepared)}
    names = [scenario for scenario in prepared.pages if any(scenario == one for one, _, _ in done)]
    runs = [run for run in sorted({(arm, seed) for _, arm, seed in done}) if all((scenario, *run) in done for scenario in names)]
    if not runs:
        raise ModelError(f"{len(done)} runs are done, and no arm is in all {len(names)} scenarios; go on with `moveline unseen`")
    parts = [_scenario(prepared, name, runs) for name in names]
    columns = {key: np.concatenate([part[key] for part in parts]) for key in parts[0] if key != "scores"}
    scenario = np.repeat(np.arange(len(parts)), [len(part["page"]) for part in parts])
    user = pd.factorize(columns["user"])[0].astype(np.int64)
    group, page = (pd.factorize(own * len(parts) + scenario)[0].astype(np.int64) for own in (user, columns["page"]))
    scores = {key: np.concatenate([part["scores"][key] for part in parts]) for key in parts[0]["scores"]}
    return Pooled(user=user, group=group, page=page, scenario=scenario, scores=scores, names=names,
                  **{key: columns[key] for key in ("clicked", "weight", "alike", "triggered")})


def _scenario(prepared: Prepared, name: str, runs: list[tuple[str, int]]) -> dict[str, Any]:
    part = prepared.held_out(name)
    test, buckets = part.sets["test"].read(_TEST_COLUMNS), Vocabulary.load(part.vocabulary).buckets
    count = lengths(test, "candidate_item")
    trigger = np.repeat(flat(test, "trigger_category"), count)
    scores = {(arm, seed): np.load(prepared.out(name, arm, seed) / SCORES) for arm, seed in runs}
    trivial = Baselines.fit(tables(part.sets["train"], _TRAIN_COLUMNS), buckets).scores(test)
    scores |= {(base, seed): trivial[base] for base in BASELINES for seed in sorted({seed for _, seed in runs})}
    # An index up to the number of buckets is of no id, or of several.
    return {"user": np.repeat(test["user_id"].to_numpy(), count), "page": np.repeat(np.arange(len(test)), count),
            **{label: flat(test, label).astype(np.float64) for label in ("clicked", "weight")},
            "alike": (flat(test, "candidate_category") == trigger) & (trigger > buckets), "triggered": trigger > buckets,
            "scores": scores}


def compare(found: Pooled) -> list[Row]:
    """The arms in the order of `ARMS`, then the baselines; intervals by resampling users, differences also over seeds."""
    resampler = Resampler(found.user)
    runs: dict[str, dict[int, dict[str, Any]]] = {}
    for (arm, seed), score in found.scores.items():
        drawn = _drawn(found, score, resampler)
        runs.setdefault(arm, {})[seed] = {"metrics": {f"test.{name}": own[0] for name, own in drawn.items()},
                                          "draws": {name: own[1] for name, own in drawn.items()}}
    rows = []
    for arm in (name for name in (*ARMS, *BASELINES) if name in runs):
        means = {name: _mean(list(runs[arm].values()), name) for name in METRICS}
        rows.append(Row(arm, len(runs[arm]), means, {name: apart(runs.get(FULL, {}), runs[arm], name) for name in METRICS}))
    return rows


def _mean(runs: list[dict[str, Any]], name: str) -> Estimate:
    """A metric over the seeds; its interval is over users."""
    return estimate(statistics.fmean(r["metrics"][f"test.{name}"] for r in runs), np.mean([r["draws"][name] for r in runs], 0))


def _drawn(found: Pooled, score: Floats, resampler: Resampler) -> dict[str, tuple[float, Floats]]:
    """Value and resampled values of each metric."""
    y, w = found.clicked, found.weight
    parts = {"page_gauc": metrics.gauc_parts(found.page, y, score, w), "gauc": metrics.gauc_parts(found.group, y, score, w),
             "log_loss": metrics.log_loss_parts(y, score, w),
             "alike_5": alike_parts(_TOP, found.page, found.alike, found.triggered & (w > 0), score)}
    return {"auc": (metrics.auc(y, score, w), resampler.auc(y, score, w)),
            **{name: (own.value, resampler.ratio(own)) for name, own in parts.items()}}


def alike_parts(k: int, page: Ints, alike: NDArray[np.bool_], counted: NDArray[np.bool_], score: Floats) -> Ratio:
    """The share of the k best counted items of each page that are alike, as a ratio, one part a page; of equal scores the first."""
    kept = np.flatnonzero(counted)
    order = kept[np.lexsort((kept, -score[kept], page[kept]))]
    size = int(page.max(initial=-1)) + 1
    shown = np.bincount(page[order], minlength=size)
    place = np.arange(len(order)) - np.repeat(np.cumsum(shown) - shown, shown)
    best = order[place < k]
    top, bottom = (sums_by(page[best], values, size) for values in (alike[best].astype(np.float64), np.ones(len(best))))
    return Ratio(top, bottom, firsts(page, size))


def collect(recipe: Recipe, prepared: Prepared, registry: Registry | None = None) -> list[Row]:
    """Compare what is finished; write `unseen.md` and `unseen.svg` beside it, and log both and every metric to MLflow."""
    found = pooled(prepared)
    rows = compare(found)
    files = written(prepared)
    files[0].write_text(table(rows) + "\n" + about(found) + "\n" + by_scenario(found))
    apart_of = [(row.arm, row.apart["page_gauc"]) for row in rows if row.arm != FULL]
    lines = [(arm, own.value, own.low, own.high) for arm, own in apart_of]
    files[1].write_text(differences(lines, f"page GAUC of {FULL} minus the arm, unseen scenarios"))
    keep(recipe, f"{recipe.name}-unseen", {"unseen": prepared.folder.name},
         {f"{row.arm}.{name}": own.value for row in rows for name, own in row.metrics.items()},
         [{"arm": row.arm, "seeds": row.seeds, **{name: own.value for name, own in row.metrics.items()}} for row in rows],
         files, registry)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The arms as a Markdown table: metrics with intervals, and the full model minus the arm."""
    heads = ["arm", "seeds", *METRICS, *(f"{FULL} minus arm, {name}" for name in METRICS[:2]), "detectable, page_gauc"]
    lines = []
    for row in rows:
        apart_of = [*(_apart(row.apart[name]) for name in METRICS[:2]), _number(row.apart["page_gauc"].detectable)]
        apart_of = ["", "", ""] if row.arm == FULL else apart_of
        lines.append([row.arm, str(row.seeds), *(_estimate(row.metrics[name]) for name in METRICS), *apart_of])
    return markdown(heads, lines)


def about(found: Pooled) -> str:
    """What was pooled, and how alike shown and clicked items are to the trigger whatever the model."""
    counted = found.weight > 0
    seen, clicked = (counted & found.triggered & (found.clicked >= least) for least in (0, 1))
    shares = [f"{found.alike[kept].mean():.3f}" if kept.any() else "none" for kept in (seen, clicked)]
    return (f"{len(found.names)} held-out scenarios, {len(np.unique(found.page))} pages, {len(np.unique(found.user))} users, "
            f"{int(counted.sum())} viewed items, {int(found.clicked[counted].sum())} clicks. On pages with a trigger, the share "
            f"with its category: of viewed items {shares[0]}, of clicked ones {shares[1]}.\n")


def by_scenario(found: Pooled) -> str:
    """Page GAUC of every arm in each held-out scenario, mean over seeds, as a Markdown table."""
    arms = [arm for arm in (*ARMS, *BASELINES) if any(name == arm for name, _ in found.scores)]
    lines = []
    for number, scenario in enumerate(found.names):
        kept = found.scenario == number
        page, y, w = found.page[kept], found.clicked[kept], found.weight[kept]
        own = {run: metrics.page_gauc(page, y, score[kept], w) for run, score in found.scores.items()}
        cells = [statistics.fmean(value for (name, _), value in own.items() if name == arm) for arm in arms]
        lines.append([scenario, str(len(np.unique(page))), *(_number(cell) for cell in cells)])
    return markdown(["scenario", "pages", *arms], lines)


def written(prepared: Prepared) -> tuple[Path, Path]:
    """Where `collect` writes the table and the picture."""
    return prepared.folder / TABLE, prepared.folder / PLOT


def _number(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.4f}"


def _estimate(found: Estimate) -> str:
    return _number(found.value) + ("" if math.isnan(found.low) else f" [{found.low:.4f}, {found.high:.4f}]")


def _apart(found: Apart) -> str:
    if math.isnan(found.value):
        return ""
    return f"{found.value:+.4f}" + ("" if math.isnan(found.low) else f" ({found.low:+.4f} to {found.high:+.4f})")
