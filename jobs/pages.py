"""Pages: one row a page, with what was known of the user at the cut once and lists of what was shown.

A page is cut when it was shown; `pages_at_click` holds the same pages cut at their first click (shown_time where there is none),
for logs that name a page only when it is clicked. Its click may lie on the next day: tokens of that day are not in its context.
The files of a day are one a user bucket, so that a user's pages lie together and no row group cuts a user.
"""

from functools import partial
from pathlib import Path

from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from feature_store.contracts import PAGES
from feature_store.day_commits import fingerprint
from feature_store.kept import Kept
from feature_store.quality import OUT, ROW, STATUS, accounted, refused, within_limit
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs.catalogue import item_days, item_versions, known_versions
from jobs.context import CODE, of_users, user_key, with_context
from jobs.day import DayResult, Made, build_day, days_until, inputs_of
from jobs.settled import settled

MIXED, TOO_LONG, MERGED = "page_mixed", "page_too_long", "merged"
PAGES_A_BUCKET = 8_192
"""Pages in a file, about; far below a row group of 256 MB."""
MIN_BUCKETS = 4
"""Files of a small day, so that several readers have something to do."""

_TABLES = {"at_show": "pages", "at_click": "pages_at_click"}
_ONE_A_PAGE = ("user_id", "scene", "scenario", "trigger_item_id", "shown_time")
_SHOWN = ("item_id", "category_id", "position", "price", "viewed", "clicked", "ordered")


def judged(exposures: DataFrame, max_items: int) -> DataFrame:
    """Exposures with `_status`: `out`, `merged` (an item the page listed before), `page_mixed` or `page_too_long`.

    A page of several users, scenes, scenarios, triggers or times is refused whole, and so is one of more than `max_items` rows. The
    first place of an item takes over `viewed`, `clicked`, `ordered` and the first `click_time` of the item's other places.
    """
    page = Window.partitionBy("page_id")
    place = Window.partitionBy("page_id", "item_id").orderBy("position", F.col("price").asc_nulls_last())
    item = place.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    identity = F.struct(*_ONE_A_PAGE)
    merged = {**{c: F.max(c).over(item) for c in ("viewed", "clicked", "ordered")}, "click_time": F.min("click_time").over(item)}
    frame = exposures.repartition("page_id").withColumns({**merged, "_place": F.row_number().over(place)})
    frame = frame.withColumns({"_least": F.min(identity).over(page), "_most": F.max(identity).over(page),
                               "_rows": F.count(F.lit(1)).over(page)})
    status = (F.when(~F.col("_least").eqNullSafe(F.col("_most")), MIXED).when(F.col("_rows") > max_items, TOO_LONG)
              .when(F.col("_place") > 1, MERGED).otherwise(OUT))
    return frame.withColumn(STATUS, status).drop("_place", "_least", "_most", "_rows")


def _category_at(versions: Column, cut: Column) -> Column:
    known = F.filter(versions, lambda v: (v["valid_from"] <= cut) & (v["available_time"] <= cut))
    return F.array_max(known)["category_id"]


def pages(rows: DataFrame, versions: DataFrame, at_click: bool = False) -> DataFrame:
    """Good pages, without their context.

    Parameters
    ----------
    rows : see `judged`. versions : see `jobs.catalogue.item_versions`. at_click : cut at the first click instead of at shown_time.

    Returns
    -------
    The columns of the `pages` contract up to `cut_time`, without `ds`; lists by (position, item_id).
    """
    first_click = F.min(F.when(F.col("clicked"), F.col("click_time"))).over(Window.partitionBy("page_id"))
    cut = F.greatest("shown_time", first_click) if at_click else F.col("shown_time")
    good = rows.where(F.col(STATUS).isin(OUT, MERGED)).join(versions, "item_id", "left")
    good = good.repartition("page_id").withColumn("cut_time", cut)
    good = good.withColumn("category_id", _category_at(F.col("versions"), F.col("cut_time")))
    item = F.struct("position", *(c for c in _SHOWN if c != "position"))
    shown = F.array_sort(F.collect_list(F.when(F.col(STATUS) == OUT, item)))
    same = [F.min(c).alias(c) for c in (*_ONE_A_PAGE, "cut_time", "trigger_source")]
    grouped = good.groupBy("page_id").agg(
        *same, F.max("label_time").alias("label_time"), F.max("available_time").alias("available_time"),
        F.count_if(F.col(STATUS) == MERGED).cast("int").alias("n_merged"), shown.alias("shown"))
    # Pages without a trigger get keys of their own, or they would all meet in one task.
    triggered = grouped.withColumn("_key", F.coalesce("trigger_item_id", F.concat(F.lit("\0"), "page_id")))
    named = triggered.join(versions.withColumnRenamed("item_id", "_key"), "_key", "left")
    named = named.withColumn("trigger_category_id", _category_at(F.col("versions"), F.col("cut_time")))
    wanted = [c for c in PAGES.columns if c not in _SHOWN and c in named.columns]
    return named.select(*wanted, *(F.col("shown")[c].alias(c) for c in _SHOWN))


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, recipe_path: str | Path) -> list[DayResult]:
    """Build a day of `pages` (and of `pages_at_click`, where the recipe asks for it); a log without exposures has none.

    Parameters
    ----------
    recipe_path : the recipe's file, for errors.

    Raises
    ------
    InputError : more than `quality.max_reject_share` of the exposures are refused; they are in `rejects` with origin `pages`.
    """
    return [_build(spark, recipe, lake, ds, cut, str(recipe_path)) for cut in recipe.pages.cuts] if recipe.has_exposures else []


def _build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, cut: str, path: str) -> DayResult:
    days = days_until(ds, recipe.movelines.days + 1)  # the last `days` days before a cut begin in the middle of one
    table = lake.table(_TABLES[cut])
    context = recipe.movelines.model_dump(include={"tokens", "visits", "days", "delay_s"})
    config = {"cut": cut, "max_page_items": recipe.quality.max_page_items, "context": context}
    reads = {"exposures": [ds], "movelines": days, "visits": days}
    kept = Kept()

    def inputs() -> dict[str, str]:
        found = inputs_of(lake, reads, ["jobs.pages", "jobs.catalogue", "feature_store.quality", *CODE], config)
        found["items"] = fingerprint(lake.table("items").digests(item_days(lake, ds)))  # one entry: all days before are needed
        # A page cut at its click may use what became known on the next day, so only pages at show can ignore late rows.
        return settled(spark, lake, table, ds, found) if cut == "at_show" else found

    def make(_: object) -> Made:
        exposures = lake.read(spark, "exposures", [ds])
        # Counted, refused and gathered from one pass.
        rows = kept.keep(judged(exposures, recipe.quality.max_page_items))
        found = {r[STATUS]: (r["n"], r["pages"]) for r in rows.groupBy(STATUS).agg(
            F.count("*").alias("n"), F.approx_count_distinct("page_id").alias("pages")).collect()}
        counts = accounted_pages({k: n for k, (n, _) in found.items()})
        _refuse(lake, ds, rows, counts, recipe, path)
        buckets = max(MIN_BUCKETS, -(-found.get(OUT, (0, 0))[1] // PAGES_A_BUCKET))
        cuts = pages(rows, item_versions(known_versions(spark, lake, ds), ds), cut == "at_click")
        keys = kept.keep(rows.where(F.col(STATUS) == OUT).select(user_key()).distinct())
        users = keys.count()
        movelines, visits = (of_users(lake.read(spark, name, days), keys, users) for name in ("movelines", "visits"))
        return Made(with_context(cuts, movelines, visits, recipe.movelines, buckets), partial(_written, counts))

    with kept:
        return build_day(table, ds, inputs, make)


def accounted_pages(statuses: dict[str, int]) -> dict[str, int]:
    """Row accounting of a day of pages, in exposures.

    Examples
    --------
    >>> accounted_pages({"out": 5, "merged": 1, "page_mixed": 2})
    {'in': 8, 'out': 5, 'merged': 1, 'reject.page_mixed': 2}
    """
    found = accounted({k: n for k, n in statuses.items() if k != MERGED})
    merged = statuses.get(MERGED, 0)
    return {"in": found.pop("in") + merged, "out": found.pop("out"), "merged": merged, **found}


def _refuse(lake: Lake, ds: str, rows: DataFrame, counts: dict[str, int], recipe: Recipe, path: str) -> None:
    bad = sum(n for name, n in counts.items() if name.startswith("reject."))
    rejects = lake.table("rejects")
    if bad or rejects.day({"ds": ds, "origin": "pages"}):
        frame = refused(rows.where(F.col(STATUS) != MERGED).withColumn(ROW, F.lit(None).cast("string")), "exposures", ds)
        inputs = inputs_of(lake, {"exposures": [ds]}, ["jobs.pages"], {"max_page_items": recipe.quality.max_page_items})
        build_day(rejects, ds, lambda: inputs, lambda _: Made(frame.withColumn("origin", F.lit("pages")), {"in": bad, "out": bad}),
                  origin="pages")
    within_limit(counts, "pages", ds, recipe.quality, path)


def _written(counts: dict[str, int], written: DataFrame) -> dict[str, int]:
    """The accounting with what lies on disk in place of what should lie there."""
    sums = written.agg(F.sum(F.size("item_id")).alias("out"), F.sum("n_merged").alias("merged")).first()
    return {**counts, "out": int(sums["out"] or 0), "merged": int(sums["merged"] or 0)}
