"""Two ways of `benchmarks/moveline_build.py` on Spark: our jobs' functions, and what one writes without them."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pyarrow as pa
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F

from benchmarks.memory import cpu_seconds
from benchmarks.timed import arguments, timed
from feature_store.contracts import EVENTS, EXPOSURES, VISITS
from feature_store.recipe import Movelines
from feature_store.session import spark_schema, spark_session
from feature_store.worker_rows import WorkerRows
from jobs.context import with_context
from jobs.movelines import movelines
from jobs.visits import visits, walk

SETTINGS = Movelines(tokens=50, visits=0, days=90)
GAP_S, WAIT_S = SETTINGS.visit_gap_s, SETTINGS.visit_wait_s
TOKEN = ("event_time", "available_time", "scene", "action", "item_id", "category_id", "dwell_ms", "replaced_time")
CONTEXT = {"moveline_time": "event_time", "moveline_scene": "scene", "moveline_action": "action", "moveline_item": "item_id",
           "moveline_category": "category_id"}
ORDER = ("event_time", "seq", "event_id", "available_time")
Stages = dict[str, Callable[[Path], None]]


def read(spark: SparkSession, folder: Path) -> tuple[DataFrame, DataFrame]:
    """Events and cuts."""
    return (spark.read.schema(spark_schema(EVENTS.schema)).parquet(str(folder / "events")),
            spark.read.parquet(str(folder / "cuts")))


def write(rows: DataFrame | WorkerRows, path: Path, columns: Sequence[str] = ()) -> None:
    """As the tables of the lake are written; some columns (default: all)."""
    if isinstance(rows, WorkerRows):
        rows.write(path, pa.schema([rows.schema.field(name) for name in columns or rows.schema.names]))
    else:
        rows.write.option("compression", "zstd").parquet(str(path))


def ours(spark: SparkSession, folder: Path) -> Stages:
    """The functions that the jobs call."""
    events, cuts = read(spark, folder)
    shown = spark.createDataFrame([], spark_schema(EXPOSURES.schema))
    none = spark.createDataFrame([], spark_schema(VISITS.schema))

    def pages(path: Path) -> None:
        tokens = spark.read.parquet(str(path.parent / "movelines"))
        write(with_context(cuts, tokens, none, SETTINGS), path, [*cuts.columns, *CONTEXT])

    return {
        "movelines": lambda path: write(movelines(events, SETTINGS.max_tokens_a_day, SETTINGS.delay_s), path),
        "visits": lambda path: write(visits(
            walk(events, shown, SETTINGS.clicked_actions, SETTINGS.carted_actions), GAP_S, WAIT_S), path),
        "pages": pages}


def naive(spark: SparkSession, folder: Path) -> Stages:
    """Windows of Spark SQL with `collect_list`, and for pages a join of a user's cuts with all of the user's tokens."""
    events, cuts = read(spark, folder)
    return {"movelines": lambda path: write(naive_movelines(events), path),
            "visits": lambda path: write(naive_visits(events), path),
            "pages": lambda path: write(naive_pages(events, cuts), path)}


def naive_movelines(events: DataFrame) -> DataFrame:
    """A row a user: `collect_list` over a window, of which one row is kept."""
    user = Window.partitionBy("user_id").orderBy(*ORDER)
    whole = user.rowsBetween(Window.unboundedPreceding, Window.unboundedFollowing)
    lists = events.withColumns({"tokens": F.collect_list(F.struct(*TOKEN)).over(whole), "place": F.row_number().over(user)})
    return lists.where("place = 1").select("user_id", *(F.col("tokens")[name].alias(name) for name in TOKEN),
                                           F.size("tokens").alias("n_tokens"), F.lit(0).alias("n_over_cap"))


def naive_visits(events: DataFrame) -> DataFrame:
    """A row a visit: starts by `lag`, numbers by a running sum, closed by the next start."""
    at, wait = F.unix_micros("event_time"), WAIT_S * 1_000_000
    late = F.unix_micros("available_time") > at + wait
    gone = F.coalesce(F.unix_micros("replaced_time") <= at + wait, F.lit(False))
    user = Window.partitionBy("user_id").orderBy("event_time", "seq", "event_id", "scene")
    steps = events.where(~late & ~gone).withColumn("at", at)
    begins = (F.lag("at").over(user).isNull() | (F.lag("scene").over(user) != F.col("scene"))
              | (F.col("at") - F.lag("at").over(user) > GAP_S * 1_000_000))
    steps = steps.withColumn("begins", begins.cast("int")).withColumn("visit", F.sum("begins").over(user))
    stays = steps.groupBy("user_id", "visit").agg(
        F.first("scene").alias("scene"), F.min("at").alias("entry"), F.max("at").alias("last"), F.count("*").alias("n_tokens"),
        F.sum((F.col("action") == "click").cast("int")).alias("n_clicked"),
        F.sum((F.col("action") == "cart").cast("int")).alias("n_carted"))
    return _with_categories(stays, steps).select(*_visit_columns(stays))


def _with_categories(stays: DataFrame, steps: DataFrame) -> DataFrame:
    counts = steps.where("category_id is not null").groupBy("user_id", "visit", "category_id").agg(F.count("*").alias("n"))
    best = Window.partitionBy("user_id", "visit").orderBy(F.desc("n"), "category_id")
    top = counts.withColumn("place", F.row_number().over(best)).where("place <= 3").groupBy("user_id", "visit").agg(
        F.array_sort(F.collect_list(F.struct("place", "category_id")))["category_id"].alias("top"))
    return stays.join(top, ["user_id", "visit"], "left")


def _visit_columns(stays: DataFrame) -> list[Column]:
    user, gap = Window.partitionBy("user_id").orderBy("visit"), GAP_S * 1_000_000
    after = F.lead("entry").over(user)
    followed = F.coalesce(after - F.col("last") <= gap, F.lit(False))
    closed = F.when(followed, after).otherwise(F.col("last") + gap)
    dwell = F.when(followed, after).otherwise(F.col("last")) - F.col("entry")
    number = F.row_number().over(Window.partitionBy("user_id", "entry").orderBy("visit")) - 1
    return [F.col("user_id"), F.col("scene"), F.timestamp_micros("entry").alias("entry_time"), number.alias("seq"),
            F.timestamp_micros(closed).alias("closed_time"),
            F.timestamp_micros(closed + WAIT_S * 1_000_000).alias("available_time"),
            F.floor(dwell / 1_000).alias("dwell_ms"), F.lit(0).alias("n_shown"), F.col("n_clicked"), F.col("n_carted"),
            F.col("n_tokens"), F.coalesce("top", F.array().cast("array<string>")).alias("categories")]


def naive_pages(events: DataFrame, cuts: DataFrame) -> DataFrame:
    """A row a page: every token that its cut could use, numbered from the last, 50 of them collected."""
    ready = F.greatest(F.unix_micros("event_time") + 1, F.unix_micros("available_time"))
    tokens = events.select("user_id", *ORDER, "scene", "action", "item_id", "category_id", "replaced_time", ready.alias("ready"))
    cut = F.unix_micros("cut_time")
    known = cuts.join(tokens, "user_id").where((F.col("ready") <= cut) & (
        F.col("replaced_time").isNull() | (F.col("cut_time") < F.col("replaced_time"))))
    page = Window.partitionBy("page_id").orderBy(*(F.desc(name) for name in ORDER))
    last = known.withColumn("place", F.row_number().over(page)).where(f"place <= {SETTINGS.tokens}").groupBy("page_id").agg(
        F.array_sort(F.collect_list(F.struct(F.negative("place").alias("from_end"), *CONTEXT.values()))).alias("tokens"))
    empty = F.array().cast("array<string>")
    lists = {name: F.coalesce(F.col("tokens")[of], empty.cast("array<timestamp>") if of == "event_time" else empty)
             for name, of in CONTEXT.items()}
    return cuts.join(last, "page_id", "left").withColumns(lists).select(*cuts.columns, *CONTEXT)


def run_way(ways: Mapping[str, Callable[[SparkSession, Path], Stages]]) -> None:
    """Do the way that the command line names."""
    asked = arguments(ways)
    spark = spark_session("moveline-benchmark")
    timed(ways[asked.way](spark, asked.input), asked, cpu_seconds)
    spark.stop()


if __name__ == "__main__":
    run_way({"ours": ours, "naive": naive})
