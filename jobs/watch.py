"""A daily look at the champion: how good it was on a day's pages, and how far the day is from the one before.

The numbers are metrics of the version, with the day as their step, so that MLflow draws them over time; a limit that is passed is
an error, and so a failed task. A page with plots of the last 30 days lies beside them, as `watch.html` of the version's run.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from feature_store.collate import flat, lengths
from feature_store.errors import ModelError, TableError
from feature_store.recipe import Recipe, Watch
from feature_store.tables import Lake
from jobs.day import day_start
from jobs.gate import Slice, is_closed, pages_of
from jobs.promote import registered
from models import metrics
from models.drift import stability
from models.evaluation import Shown
from models.kinds import READS
from models.metrics import Floats
from models.ranker import Ranker
from models.registry import Registry
from models.watch_page import beyond, watch_page

BINS = 10
PAGE, PAGE_TAG = "watch.html", "watch.page"
"""The page of the last days, among the artifacts of the version's run, and the tag of the version that says where it is."""


@dataclass(frozen=True)
class Seen:
    """A day's pages as a version sees them.

    Attributes
    ----------
    shown : N items with a closed label. scores : [N]. columns : name -> [n] float64, the main columns of items and pages.
    unknown : share of the items that the version's vocabulary does not know.
    """

    shown: Shown
    scores: Floats
    columns: dict[str, Floats]
    unknown: float


def watch(recipe: Recipe, lake: Lake, model: str, ds: str | None = None, registry: Registry | None = None) -> dict[str, float]:
    """Look at one day (default: the newest whose labels are closed) with the champion; what was found, by name.

    Raises
    ------
    ModelError : a limit of the recipe is passed; names all that are. The numbers are kept all the same. Or there is no champion.
    TableError : the day has no pages, or no day is closed.
    """
    registry = registry or Registry()
    name, _ = registered(recipe, model, registry)
    champion, built = registry.by_alias(name), lake.table("pages").days()
    if champion is None:
        raise ModelError(f"{name} has no champion to watch")
    if not built or (ds and ds not in built):
        raise TableError(f"{recipe.name} has no pages of {ds or 'any day'}; build them with `moveline daily`")
    day = ds or newest_closed(recipe, lake, built)
    ranker = Ranker(registry.folder(champion))
    today = seen(lake, day, ranker)
    before = seen(lake, built[built.index(day) - 1], ranker) if built.index(day) else None
    numbers = found(today, before)
    when = date.fromisoformat(day)
    registry.log_metrics(champion, {f"watch.{key}": value for key, value in numbers.items()}, day=when)
    registry.tag(champion, {PAGE_TAG: registry.log_page(champion, PAGE, drawn(name, registry, when, recipe.watch))})
    wrong = passed(numbers, recipe.watch)
    if wrong:
        raise ModelError(f"{champion.uri} on {day}: {'; '.join(wrong)}; its page watch.html shows the last days; is it the model, "
                         f"`moveline rollback {model}` returns to the champion before")
    return numbers


def newest_closed(recipe: Recipe, lake: Lake, days: Sequence[str]) -> str:
    """The newest of some days, ascending, whose labels are closed: a day whose clicks still come in looks worse than it is.

    Raises
    ------
    TableError : none is.
    """
    found = next((day for day in reversed(days) if is_closed(recipe, lake, day)), "")
    if not found:
        raise TableError(f"no day of pages of {recipe.name} has all of its labels yet; look again when the next day is built, "
                         "or name a day with --ds")
    return found


def watched(recipe: Recipe, registry: Registry) -> list[str]:
    """Models of a recipe that rank pages and have a champion."""
    return [m for m in recipe.models if READS[m] == "pages" and registry.by_alias(f"{recipe.name}-{m}")]


def seen(lake: Lake, day: str, ranker: Ranker) -> Seen:
    """The pages of a day whose label is closed by the end of the newest day, scored."""
    end = day_start(lake.table("pages").days()[-1]) + timedelta(1)
    parts, scores, tokens, price = [], [], [], []
    for pages in pages_of(lake, Slice((day,), end, "")):
        encoded = ranker.encoded(pages)
        scores.append(ranker.scores(encoded))
        parts.append(encoded.select(Shown.COLUMNS))
        tokens.append(lengths(encoded, "moveline_item"))
        price.append(flat(encoded, "price_score"))
    if not parts:
        raise TableError(f"no page of {day} has a closed label yet; look again when the next day is built")
    table = pa.concat_tables(parts).combine_chunks()
    item = flat(table, "candidate_item")
    columns: dict[str, Any] = {"items_a_page": lengths(table, "candidate_item"), "tokens": np.concatenate(tokens),
                               "price": np.concatenate(price), "scores": np.concatenate(scores)}
    return Seen(Shown.of(table, {}), np.concatenate(scores), {key: own.astype(np.float64) for key, own in columns.items()},
                float((item <= ranker.vocabulary.buckets).mean()) if len(item) else float("nan"))


def found(today: Seen, before: Seen | None) -> dict[str, float]:
    """How good, how sure, how new: the numbers of a day (those the rows cannot define are left out)."""
    shown, score = today.shown, today.scores
    numbers = {**{key: float(n) for key, n in shown.counts().items()}, "unknown": today.unknown,
               "gauc": metrics.gauc(shown.user, shown.clicked, score, shown.weight),
               "calibration_error": metrics.calibration_error(shown.clicked, score, shown.weight),
               "bias": metrics.bias(shown.clicked, score, shown.weight)}
    if before is not None:
        numbers |= {f"stability.{key}": moved(before.columns[key], own) for key, own in today.columns.items()}
    return {key: value for key, value in numbers.items() if np.isfinite(value)}


def moved(before: Floats, after: Floats) -> float:
    """Population stability index over bins that the values before fill about equally.

    Examples
    --------
    >>> moved(np.arange(100.0), np.arange(100.0)), moved(np.arange(100.0), np.arange(100.0) + 50) > 0.25
    (0.0, True)
    """
    edges = np.unique(np.quantile(before, np.arange(1, BINS) / BINS)) if len(before) else np.zeros(0)
    counts = [np.bincount(np.searchsorted(edges, own, side="left"), minlength=len(edges) + 1) for own in (before, after)]
    return stability(counts[0].tolist(), counts[1].tolist())


def passed(numbers: dict[str, float], limits: Watch) -> list[str]:
    """The limits that are passed; nothing when all is well.

    Examples
    --------
    >>> passed({"gauc": 0.4, "unknown": 0.1, "stability.price": 0.3}, Watch())
    ['gauc is 0.4000, the limit 0.5', 'stability.price is 0.3000, the limit 0.25']
    """
    return [f"{key} is {numbers[key]:.4f}, the limit {limit:g}" for key, limit in limits_of(limits, numbers).items()
            if key in numbers and beyond(key, numbers[key], limit)]


def limits_of(limits: Watch, keys: Iterable[str]) -> dict[str, float]:
    """The limit of each number that has one, by its name."""
    return {"gauc": limits.min_gauc, "calibration_error": limits.max_calibration_error, "unknown": limits.max_unknown,
            **{key: limits.max_stability for key in keys if key.startswith("stability.")}}


def drawn(name: str, registry: Registry, last: date, limits: Watch) -> str:
    """The page of the days up to `last` on which versions of a model were looked at."""
    found = {version.version: curves for version in registry.versions(name) if (curves := registry.by_day(version, "watch."))}
    return watch_page(name, found, last, limits_of(limits, {key for curves in found.values() for key in curves}))
