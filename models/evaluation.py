"""How good a model is on held-out pages or pairs: every metric with its interval, beside baselines, as plain JSON-able values.

A result (`dict`) has: `reads`, `rows` (counts), `metrics` (name of a score -> metric -> estimate), `differences` (name of a
baseline -> metric -> estimate of model - baseline, paired, with the smallest difference these rows could detect), `scenarios`,
`curves`, for pages `draws` (metric -> its value in every resample of users, the same resamples for all results on the same rows, so
that two results can be compared pairwise), and, for a simulated log, `truth`. An estimate is {"value", "low", "high", "error"};
null stands for what the rows cannot define.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pyarrow as pa
from numpy.typing import NDArray

from feature_store.collate import flat, lengths
from feature_store.contracts import PAIR_KINDS
from models import metrics
from models.baselines import PROBABILITIES
from models.bootstrap import Estimate, Resampler, estimate
from models.metrics import Floats, Ints

MODEL = "model"
RANKING = ("auc", "gauc", "page_gauc", "recall_5", "ndcg_5", "ndcg_10")
PROBABILITY = ("log_loss", "calibration_error")
Result = dict[str, Any]
Drawn = tuple[float, Floats]


@dataclass(frozen=True)
class Shown:
    """Shown items of whole pages, page after page. N items, B pages.

    Attributes
    ----------
    page_id : [B] raw ids. page, user : [N] numbers. scenario : [N] names. clicked, weight : [N] float64.
    """

    COLUMNS: ClassVar[list[str]] = ["page_id", "user_id", "scenario", "candidate_item", "clicked", "weight"]
    """Columns of encoded pages that it is made from."""

    page_id: NDArray
    page: Ints
    user: Ints
    scenario: NDArray
    clicked: Floats
    weight: Floats

    @classmethod
    def of(cls, table: pa.Table, scenarios: Mapping[int, str]) -> "Shown":
        """From encoded pages; `scenarios` names the indexes of the scenario vocabulary."""
        count = lengths(table, "candidate_item")
        user = pd.factorize(table["user_id"].to_numpy())[0]
        codes = table["scenario"].to_numpy()
        distinct = np.unique(codes)
        names = np.array([scenarios.get(int(code), "(unknown)") for code in distinct], object)
        scenario = names[np.searchsorted(distinct, codes)] if len(codes) else np.zeros(0, object)
        return cls(table["page_id"].to_numpy(), np.repeat(np.arange(len(count)), count), np.repeat(user, count).astype(np.int64),
                   np.repeat(scenario, count), flat(table, "clicked").astype(np.float64), flat(table, "weight").astype(np.float64))

    def where(self, kept: NDArray[np.bool_]) -> "Shown":
        """The items where `kept` is true (whole pages keep their meaning only when all their items are kept)."""
        return Shown(self.page_id, self.page[kept], self.user[kept], self.scenario[kept], self.clicked[kept], self.weight[kept])

    def counts(self) -> dict[str, int]:
        """Pages, users, items that count, and clicks among them."""
        counted = self.weight > 0
        return {"pages": len(np.unique(self.page)), "users": len(np.unique(self.user)), "items": int(counted.sum()),
                "clicks": int(self.clicked[counted].sum())}


def evaluate_pages(shown: Shown, model: Floats, baselines: Mapping[str, Floats], truth: Floats | None = None) -> Result:
    """Judge a ranking model.

    Parameters
    ----------
    shown : the held-out items. model : [N] click probabilities. baselines : name -> [N] scores.
    truth : [N] true click probabilities of a simulated log (nan where unknown).
    """
    resampler = Resampler(shown.user)
    drawn = {MODEL: _page_metrics(shown, model, resampler, True)}
    drawn |= {name: _page_metrics(shown, score, resampler, name in PROBABILITIES) for name, score in baselines.items()}
    result = {
        "reads": "pages", "rows": shown.counts(),
        "metrics": {name: {metric: plain(estimate(*d)) for metric, d in own.items()} for name, own in drawn.items()},
        "differences": {name: differences(drawn[MODEL], drawn[name]) for name in baselines},
        "draws": {metric: [_or_none(value) for value in draws] for metric, (_, draws) in drawn[MODEL].items()},
        "scenarios": {str(name): _scenario(shown, model, shown.scenario == name) for name in _distinct(shown.scenario)},
        "curves": {"roc": {name: _roc(shown, score) for name, score in {MODEL: model, **baselines}.items()},
                   "calibration": _calibration(shown, model)},
    }
    return result | ({} if truth is None else {"truth": _truth(shown, model, baselines["base_rate"], truth)})


def evaluate_pairs(score: Floats, kind: Ints, weight: Floats, page: Ints, baselines: Mapping[str, Floats]) -> Result:
    """Judge item vectors: AUC of held-out co-click against mono-click pairs, weighted, with intervals by page.

    Parameters
    ----------
    score : [M] similarity of a pair. kind : [M] place in PAIR_KINDS. weight : [M] inverse inclusion probability. page : [M].
    """
    kept = (kind != PAIR_KINDS.index("co_non_click")) & (weight > 0)
    together = (kind[kept] == PAIR_KINDS.index("co_click")).astype(np.float64)
    weight, page = weight[kept].astype(np.float64), page[kept]
    resampler = Resampler(page)
    every = {name: values[kept].astype(np.float64) for name, values in {MODEL: score, **baselines}.items()}
    drawn = {name: {"auc": (metrics.auc(together, own, weight), resampler.auc(together, own, weight))}
             for name, own in every.items()}
    return {
        "reads": "pairs",
        "rows": {"pairs": len(page), "pages": len(np.unique(page)),
                 **{name: int((kind == i).sum()) for i, name in enumerate(PAIR_KINDS)}},
        "metrics": {name: {metric: plain(estimate(*d)) for metric, d in own.items()} for name, own in drawn.items()},
        "differences": {name: differences(drawn[MODEL], drawn[name]) for name in baselines},
        "scenarios": {},
        "curves": {"roc": {name: _points(metrics.roc(together, own, weight)) for name, own in every.items()}},
    }


def headline(result: Result) -> dict[str, float]:
    """The numbers of a result as one flat mapping for a tracking server: `test.auc`, `test.auc.low`, `test.popularity.auc`,
    `test.over_popularity.auc` (the paired difference), `test.truth.gap_closed`, ..."""
    out: dict[str, float | None] = {}
    for name, own in result["metrics"].items():
        if name != MODEL:
            out |= {f"test.{name}.{metric}": found["value"] for metric, found in own.items()}
    for metric, found in result["metrics"][MODEL].items():
        out |= {f"test.{metric}": found["value"], f"test.{metric}.low": found["low"], f"test.{metric}.high": found["high"]}
    for name, own in result["differences"].items():
        out |= {f"test.over_{name}.{metric}": found["value"] for metric, found in own.items()}
    out |= {f"test.truth.{key}": value for key, value in result.get("truth", {}).items()}
    return {key: value for key, value in out.items() if value is not None}


def plain(found: Estimate) -> dict[str, float | None]:
    """An estimate as JSON-able values; nan becomes null."""
    return {key: _or_none(getattr(found, key)) for key in ("value", "low", "high", "error")}


def _page_metrics(shown: Shown, score: Floats, resampler: Resampler, probability: bool) -> dict[str, Drawn]:
    y, w, page = shown.clicked, shown.weight, shown.page
    parts = {
        "gauc": metrics.gauc_parts(shown.user, y, score, w), "page_gauc": metrics.gauc_parts(page, y, score, w),
        "recall_5": metrics.recall_parts(5, page, y, score, w), "ndcg_5": metrics.ndcg_parts(5, page, y, score, w),
        "ndcg_10": metrics.ndcg_parts(10, page, y, score, w),
    }
    out: dict[str, Drawn] = {"auc": (metrics.auc(y, score, w), resampler.auc(y, score, w))}
    if probability:
        parts["log_loss"] = metrics.log_loss_parts(y, score, w)
        out["calibration_error"] = (metrics.calibration_error(y, score, w), resampler.calibration(y, score, w))
    return out | {name: (own.value, resampler.ratio(own)) for name, own in parts.items()}


def differences(model: Mapping[str, Drawn], other: Mapping[str, Drawn]) -> dict[str, dict[str, float | None]]:
    """By metric that both have, the paired difference and the smallest one these rows would detect."""
    found = {metric: estimate(value - other[metric][0], draws - other[metric][1])
             for metric, (value, draws) in model.items() if metric in other}
    return {metric: plain(own) | {"detectable": _or_none(own.detectable)} for metric, own in found.items()}


def _scenario(shown: Shown, model: Floats, kept: NDArray[np.bool_]) -> Result:
    own, score = shown.where(kept), model[kept]
    drawn = _page_metrics(own, score, Resampler(own.user), True)
    return {"rows": own.counts(), "metrics": {metric: plain(estimate(*d)) for metric, d in drawn.items()}}


def _truth(shown: Shown, model: Floats, base: Floats, truth: Floats) -> dict[str, float | None]:
    """Log loss of base rate, model and true probabilities where the truth is known, and the share of the gap closed."""
    known = ~np.isnan(truth)
    y, w = shown.clicked[known], shown.weight[known]
    flat_loss, loss, best = (metrics.log_loss(y, p[known], w) for p in (base, model, truth))
    closed = (flat_loss - loss) / (flat_loss - best) if flat_loss > best else math.nan
    found = {
        "items": float(known.sum()), "log_loss_base_rate": flat_loss, "log_loss_model": loss, "log_loss_truth": best,
        "gap_closed": closed, "auc_model": metrics.auc(y, model[known], w), "auc_truth": metrics.auc(y, truth[known], w),
    }
    return {key: _or_none(value) for key, value in found.items()}


def _roc(shown: Shown, score: Floats) -> list[list[float]]:
    return _points(metrics.roc(shown.clicked, score, shown.weight))


def _points(curve: Iterable[Floats]) -> list[list[float]]:
    return [[round(float(x), 5) for x in axis] for axis in curve]


def _calibration(shown: Shown, model: Floats) -> dict[str, list[float]]:
    """Mean probability, click rate and rows of each bin of the calibration error."""
    bins = metrics.calibration_bins(model, shown.weight)
    rows, predicted, clicked = metrics.calibration_sums(shown.clicked, model, shown.weight, bins).T
    used = rows > 0
    return {"predicted": (predicted[used] / rows[used]).tolist(), "clicked": (clicked[used] / rows[used]).tolist(),
            "rows": rows[used].tolist()}


def _distinct(names: NDArray) -> list[str]:
    return sorted(set(pd.unique(names)))


def _or_none(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None
