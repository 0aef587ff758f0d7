"""The simulated log as it is written: text ids, and `ds`, the day on which a row arrived."""

from collections.abc import Iterable

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from feature_store.simulator import world
from feature_store.simulator.settings import SimulatorSettings
from feature_store.simulator.walk import DAY_S

_IMPRESSION_LAG_S = 2.0


def events_log(raw: DataFrame) -> DataFrame:
    """The `events` log from `raw.events`: text ids, and `ds`, the day of arrival."""
    origin = F.element_at(F.array(F.lit("e"), F.lit("c"), F.lit("b")), (F.col("kind") + 1).cast("int"))
    searched = F.concat_ws(" ", F.lit("category"), F.col("category"))
    return raw.select(
        F.concat(origin, _joined("user", "day", "step", "slot")).alias("event_id"), _id("u", "user").alias("user_id"), "event_time",
        F.lit(0).cast("long").alias("seq"), "available_time", _name(world.SCENES, "scene"), _name(world.ACTIONS, "action"),
        F.when(F.col("item") >= 0, _id("i", "item")).alias("item_id"),
        F.when(F.col("category") >= 0, _id("c", "category")).alias("category_id"),
        F.when(F.col("action") == world.ACTIONS.index("search"), searched).alias("query"),
        F.concat(F.lit("s"), _joined("user", "day", "session")).alias("session_id"),
        F.when(F.col("kind") == 0, F.col("dwell_ms")).alias("dwell_ms"), _day("available_time"))


def exposures_log(pages: DataFrame, settings: SimulatorSettings) -> DataFrame:
    """The `exposures` log from `raw.pages`: every shown item, and `ds`, the day on which its label was known.

    `available_time` is when the impression was known (visits count what was shown); the label follows at `label_time`.
    """
    lists = ("slot", "item", "price", "viewed", "clicked", "ordered", "click_time")
    kept = pages.select("user", "day", "step", "shown_time", "scene", "scenario", "trigger", F.inline(F.arrays_zip(*lists)))
    label = F.col("shown_time") + F.make_interval(secs=F.lit(settings.attribution_s))
    return kept.select(
        _page_id(), _id("u", "user").alias("user_id"), "shown_time", label.alias("label_time"),
        (F.col("shown_time") + F.make_interval(secs=F.lit(_IMPRESSION_LAG_S))).alias("available_time"),
        _name(world.SCENES, "scene"), _name([s.name for s in world.SCENARIOS], "scenario"),
        _id("i", "trigger").alias("trigger_item_id"), F.lit("entrance").alias("trigger_source"), _id("i", "item").alias("item_id"),
        _position(), "price", "viewed", "clicked", F.when(F.col("clicked"), F.col("click_time")).alias("click_time"), "ordered",
        F.date_format(label, "yyyy-MM-dd").alias("ds"))


def truth_log(pages: DataFrame) -> DataFrame:
    """What an oracle knows of each shown item; `ds` is the day it was shown."""
    lists = ("slot", "item", "click_probability", "view_probability")
    kept = pages.select("user", "day", "step", "shown_time", F.inline(F.arrays_zip(*lists)))
    return kept.select(_page_id(), _id("i", "item").alias("item_id"), _position(), "click_probability", "view_probability",
                       _day("shown_time"))


def truth_pages_log(pages: DataFrame) -> DataFrame:
    """What an oracle knows of each page: the latent intent, and whether the trigger came from it; `ds` is the day it was shown."""
    return pages.select(_page_id(), _id("u", "user").alias("user_id"), "shown_time", "intent",
                        F.col("relevant").alias("trigger_relevant"), _day("shown_time"))


def items_log(raw: DataFrame) -> DataFrame:
    """The `items` log from `raw.items`."""
    start = F.timestamp_seconds(F.col("day") * DAY_S)
    return raw.select(_id("i", "item").alias("item_id"), _id("c", "category").alias("category_id"),
                      _id("b", "brand").alias("brand_id"), _id("p", "shop").alias("shop_id"), "price", start.alias("valid_from"),
                      start.alias("available_time"),
                      F.date_format(start, "yyyy-MM-dd").alias("ds"))


def truth_items_log(raw: DataFrame) -> DataFrame:
    """Latent vector of every item."""
    return raw.select(_id("i", "item").alias("item_id"), "vector", "quality")


def _id(prefix: str, column: str) -> Column:
    return F.concat(F.lit(prefix), F.col(column).cast("string"))


def _joined(*columns: str) -> Column:
    return F.concat_ws("-", *[F.col(c).cast("string") for c in columns])


def _page_id() -> Column:
    return F.concat(F.lit("p"), _joined("user", "day", "step")).alias("page_id")


def _position() -> Column:
    return (F.col("slot") + 1).cast("int").alias("position")


def _name(names: Iterable[str], column: str) -> Column:
    return F.element_at(F.array(*[F.lit(n) for n in names]), (F.col(column) + 1).cast("int")).alias(column)


def _day(column: str) -> Column:
    return F.date_format(column, "yyyy-MM-dd").alias("ds")
