"""Publishing a champion: it and the version in use score a slice of users; when the two distributions of scores are alike, the
alias `deployed` moves to it. Nothing that serves reads a version before that."""

from dataclasses import dataclass
from itertools import pairwise

from pyspark import StorageLevel
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.errors import ModelError, TableError
from feature_store.recipe import Deploy, Recipe
from feature_store.tables import Lake
from jobs.score import scored, ship
from models.artifact import describe
from models.drift import stability
from models.ledger import DEPLOY, NOBODY
from models.registry import CHAMPION, Registry, Version

DEPLOYED = "deployed"
"""Alias of the version that is served and scored with, as far as a deployment goes through this job."""

DECISION = "deploy.decision"
BINS = 10
_SEED, _PARTS = 20_260_501, 10_000


@dataclass(frozen=True)
class Canary:
    """Scores of a slice. histogram : items by the bins that the version in use fills equally; mean, spread : of all scores."""

    histogram: tuple[int, ...]
    mean: float
    spread: float


def undeployed(recipe: Recipe, registry: Registry) -> list[str]:
    """Models of a recipe whose champion is not in use."""
    pairs = {m: [registry.by_alias(f"{recipe.name}-{m}", alias) for alias in (CHAMPION, DEPLOYED)] for m in recipe.models}
    return [m for m, (champion, used) in pairs.items() if champion and (used is None or used.version != champion.version)]


def deploy(spark: SparkSession, recipe: Recipe, lake: Lake, model: str, ds: str | None = None,
           registry: Registry | None = None) -> Version:
    """Publish the champion of a model, unless the check fails; one that ranks no pages is published without a check.

    Parameters
    ----------
    ds : day of the slice; None takes the newest day of pages.

    Raises
    ------
    ModelError : there is no champion, or it is refused; says why. ConflictError : somebody else deploys at this moment.
    """
    registry = registry or Registry()
    name = f"{recipe.name}-{model}"
    champion, used = registry.by_alias(name, CHAMPION), registry.by_alias(name, DEPLOYED)
    if champion is None:
        raise ModelError(f"{name} has no champion to deploy; `moveline history {model}` shows what became of it")
    if used is not None and used.version == champion.version:
        return champion
    numbers, reasons, note = _checked(spark, recipe, lake, champion, used, ds, registry)
    registry.log_metrics(champion, {f"deploy.{key}": value for key, value in numbers.items()})
    if reasons:
        registry.tag(champion, {DECISION: "refused: " + "; ".join(reasons)})
        raise ModelError(f"{champion.uri} is not deployed: {'; '.join(reasons)}; {used.uri if used else 'nothing'} stays in use")
    registry.tag(champion, {DECISION: note})
    return registry.set_alias(champion, DEPLOYED, note, action=DEPLOY, numbers=numbers, instead_of=used.version if used else NOBODY)


def _checked(spark: SparkSession, recipe: Recipe, lake: Lake, champion: Version, used: Version | None, ds: str | None,
             registry: Registry) -> tuple[dict[str, float], list[str], str]:
    if describe(registry.folder(champion))["reads"] != "pages":
        return {}, [], "ranks no pages: not checked"
    day = ds or next(iter(lake.table("pages").days()[::-1]), "")
    if not day:
        raise TableError(f"{recipe.name} has no pages to try {champion.uri} on; build them with `moveline daily`")
    pages = canary(lake.read(spark, "pages", [day]), recipe.deploy.canary_share)
    found = [scores_of(spark, pages, version, registry) for version in (used or champion, champion)]
    try:
        edges = quantiles(found[0])
        old, new = (measured(scores, edges) for scores in found)
    finally:
        for scores in found:
            scores.unpersist()
    numbers = {"items": float(sum(new.histogram)), "mean": new.mean, "spread": new.spread}
    if used:
        numbers |= {"mean.before": old.mean, "stability": stability(old.histogram, new.histogram)}
    numbers = {key: value for key, value in numbers.items() if value == value}
    against = f"beside version {used.version}" if used else "the first"
    return numbers, refusals(new, numbers, used is not None, recipe.deploy), f"canary of {day} passed, {against}"


def canary(pages: DataFrame, share: float) -> DataFrame:
    """The pages of this share of the users, by hash of the user."""
    return pages.where(F.pmod(F.xxhash64(F.lit(_SEED), "user_id"), F.lit(_PARTS)) < round(share * _PARTS))


def scores_of(spark: SparkSession, pages: DataFrame, version: Version, registry: Registry) -> DataFrame:
    """The scores of all shown items by a version, one a row; kept until they are released."""
    archive = ship(spark, registry.folder(version), f"{version.name}-{version.version}")
    return scored(pages, archive).frame.select(F.explode("score").alias("score")).persist(StorageLevel.MEMORY_AND_DISK)


def quantiles(scores: DataFrame) -> list[float]:
    """Inner edges of bins that these scores fill about equally."""
    row = scores.agg(F.percentile_approx("score", [n / BINS for n in range(1, BINS)]).alias("edges")).first()
    return sorted(set(row["edges"] or [])) if row else []


def measured(scores: DataFrame, edges: list[float]) -> Canary:
    """Histogram, mean and standard deviation of scores. edges : inner edges of the bins, ascending."""
    above = [F.count_if(F.col("score") > edge) for edge in edges]
    row = scores.agg(F.count("*"), *above, F.avg("score"), F.stddev_pop("score")).first()
    *counts, mean, spread = row or [0, None, None]
    histogram = tuple(a - b for a, b in pairwise([*counts, 0]))
    return Canary(histogram, *(float("nan") if value is None else float(value) for value in (mean, spread)))


def refusals(new: Canary, numbers: dict[str, float], replaces: bool, limits: Deploy) -> list[str]:
    """Why a version may not be used; nothing when it may.

    Examples
    --------
    >>> refusals(Canary((5, 5), 0.1, 0.02), {"stability": 0.4}, True, Deploy())
    ['its scores lie elsewhere: stability index 0.4000, the limit 0.25']
    >>> refusals(Canary((0,), float("nan"), float("nan")), {}, False, Deploy())
    ['no page of the slice could be tried']
    >>> refusals(Canary((10,), 0.5, 0.0), {}, False, Deploy())
    ['it gives every item the same score, 0.5000']
    """
    if not sum(new.histogram):
        return ["no page of the slice could be tried"]
    if not new.spread > 0:
        return [f"it gives every item the same score, {new.mean:.4f}"]
    if replaces and not numbers["stability"] <= limits.max_stability:
        return [f"its scores lie elsewhere: stability index {numbers['stability']:.4f}, the limit {limits.max_stability:g}"]
    return []
