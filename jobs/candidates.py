"""Lists of candidates for some test pages, by which pre-ranking is judged: far more items than a page shows, and none that was not
known at its cut. What they are, a recipe says under `candidates`."""

from dataclasses import dataclass
from datetime import timedelta

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import PAGES
from feature_store.encoding import encode_pages
from feature_store.recipe import Recipe
from feature_store.sources import checked
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs.export import catalogue
from jobs.snapshot import window
from jobs.windows import Window, split_times

_WITHIN = "_within"


@dataclass(frozen=True)
class CandidateLists:
    """Encoded lists of test pages, and what did not get into them.

    Attributes
    ----------
    pages : rows of `encoding.ENCODED_PAGES`: the page's own context, and the list in place of what it showed. Every candidate has
        the weight 1 and no price; `clicked` says what was clicked on the page. asked, clicks : pages that were to get a list, and
        the clicked items on them; a page without candidates has no row, and a click outside its page's list is missing in it.
    """

    pages: pa.Table
    asked: int
    clicks: int


def candidate_lists(spark: SparkSession, recipe: Recipe, lake: Lake, day: str, words: Vocabulary, path: str) -> CandidateLists:
    """Lists of `candidates.pages` test pages of the training run whose last day is `day`.

    Parameters
    ----------
    words : vocabulary of the model. path : the recipe's file, for errors.

    Raises
    ------
    ConfigError : `candidates.within` is no expression over events.
    """
    test, days = split_times(recipe, day).windows[2], window(recipe, day)
    every = lake.read(spark, "pages", days)
    asked = asked_pages(every, test, recipe.candidates.pages).persist()
    try:
        if recipe.candidates.within is None:
            before = str((test.start - timedelta(days=1)).date())
            lists = sampled(asked, catalogue(spark, lake, before), recipe.candidates.most)
        else:
            events = lake.read(spark, "events", days)
            values = page_values(every, events, recipe.candidates.within, f"{path}: candidates.within")
            lists = shown_before(asked, every, values, recipe.candidates.most)
        rows = as_pages(asked, lists).orderBy("user_id", "cut_time", "page_id").toArrow()
        total = asked.agg(F.count(F.lit(1)), F.coalesce(F.sum(F.size(_clicked())), F.lit(0))).first() or (0, 0)
    finally:
        asked.unpersist()
    return CandidateLists(encode_pages(rows, words), *total)


def _clicked() -> Column:
    """The items that were viewed and clicked, in a row of `pages`."""
    shown = F.arrays_zip("item_id", "category_id", "viewed", "clicked")
    return F.filter(shown, lambda x: x["viewed"] & x["clicked"])


def asked_pages(pages: DataFrame, test: Window, most: int) -> DataFrame:
    """At most so many pages of a window with a click, chosen by the hash of their id."""
    inside = (F.col("cut_time") >= F.lit(test.start)) & (F.col("cut_time") < F.lit(test.end))
    return pages.where(inside & (F.size(_clicked()) > 0)).orderBy(F.xxhash64("page_id"), "page_id").limit(most)


def page_values(pages: DataFrame, events: DataFrame, within: str, place: str) -> DataFrame:
    """page_id and `_within`, the expression's value at the last event of the page's user up to its cut that has one.

    An event counts in the version that was known at the cut. Pages without a value have no row. place : of the expression, for
    errors.
    """
    columns = ("user_id", "event_time", "seq", "event_id", "available_time", "replaced_time")
    known = checked(events, within, place, lambda frame, value: frame.select(*columns, value.cast("string").alias(_WITHIN)))
    cut = F.col("cut_time")
    fits = ((F.col("event_time") <= cut) & (F.col("available_time") <= cut) & F.col(_WITHIN).isNotNull()
            & (F.col("replaced_time").isNull() | (F.col("replaced_time") > cut)))
    newest = F.max_by(_WITHIN, F.struct("event_time", "seq", "event_id")).alias(_WITHIN)
    return pages.select("page_id", "user_id", "cut_time").join(known, "user_id").where(fits).groupBy("page_id").agg(newest)


def shown_before(asked: DataFrame, pages: DataFrame, values: DataFrame, most: int) -> DataFrame:
    """page_id, item_id, category_id: the last items shown before each asked page on pages of its value, at most so many.

    Only pages shown before the cut of the asked one, and known by then, count; the asked page is none of them.
    """
    wanted = asked.select("page_id", "cut_time").join(values, "page_id")
    item = F.explode(F.arrays_zip("item_id", "category_id")).alias("item")
    times = F.col("shown_time").alias("time"), F.col("available_time").alias("known")
    shown = pages.join(values, "page_id").select(_WITHIN, *times, item)
    before = (F.col("time") < F.col("cut_time")) & (F.col("known") <= F.col("cut_time"))
    found = wanted.join(shown, _WITHIN).where(before).groupBy("page_id", "item.item_id").agg(
        F.max("time").alias("time"), F.max_by("item.category_id", F.struct("time", "item.category_id")).alias("category_id"))
    ordered = F.array_sort(F.collect_list(F.struct(-F.unix_micros("time"), "item_id", "category_id")))
    last = found.groupBy("page_id").agg(F.slice(ordered, 1, most).alias("last"))
    return last.select("page_id", F.explode("last").alias("item")).select("page_id", "item.item_id", "item.category_id")


def sampled(asked: DataFrame, items: DataFrame, most: int) -> DataFrame:
    """page_id, item_id, category_id: each page's clicks, and about so many items of the catalogue, by the hash of page and item."""
    size = max(items.count(), 1)
    pairs = asked.select("page_id").crossJoin(F.broadcast(items.select("item_id", "category_id")))
    drawn = pairs.where(F.pmod(F.xxhash64("item_id", "page_id"), F.lit(size)) < most)
    clicked = asked.select("page_id", F.explode(_clicked()).alias("item"))
    both = drawn.unionByName(clicked.select("page_id", "item.item_id", "item.category_id"))
    return both.groupBy("page_id", "item_id").agg(F.max("category_id").alias("category_id"))


def as_pages(asked: DataFrame, lists: DataFrame) -> DataFrame:
    """The asked pages that have candidates, with these in place of what was shown, by item id; `clicked` where the page's was."""
    items = lists.groupBy("page_id").agg(F.array_sort(F.collect_list(F.struct("item_id", "category_id"))).alias("list"))
    hits = F.transform(_clicked(), lambda x: x["item_id"])
    own = {"item_id": lambda x: x["item_id"], "category_id": lambda x: x["category_id"], "position": lambda x: F.lit(0),
           "price": lambda x: F.lit(None).cast("double"), "viewed": lambda x: F.lit(True),
           "clicked": lambda x: F.array_contains(F.col("hits"), x["item_id"]), "ordered": lambda x: F.lit(None).cast("boolean")}
    rows = asked.withColumn("hits", hits).join(items, "page_id")
    columns = [F.transform("list", own[c]).alias(c) if c in own else F.col(c) for c in PAGES.columns if c != "ds"]
    return rows.select(*columns)
