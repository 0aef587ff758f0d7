"""Two ways of `benchmarks/pairs.py` on Spark: our job's function, and what one writes without it."""

from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.moveline_spark import Stages, run_way, write
from feature_store.contracts import PAIR_KINDS
from feature_store.recipe import Pairs
from jobs.pairs import exact_counts, sampled_pairs

ALL = 100_000_000
"""A cap above any page's pairs."""


def ours(spark: SparkSession, folder: Path) -> Stages:
    """The functions that the job calls; `sample` is what it writes (for `benchmarks/skew.py`)."""
    pages = spark.read.parquet(str(folder / "pages"))
    return {"counts": lambda path: write(exact_counts(pages).select("page_id", *PAIR_KINDS), path),
            "pairs": lambda path: write(sampled_pairs(pages, ALL), path, ["page_id", "left_item", "right_item", "kind"]),
            "sample": lambda path: write(sampled_pairs(pages, Pairs().max_a_page), path)}


def naive(spark: SparkSession, folder: Path) -> Stages:
    """Items exploded and joined with those of the same page."""
    pages = spark.read.parquet(str(folder / "pages"))
    return {"counts": lambda path: write(naive_counts(pages), path), "pairs": lambda path: write(naive_pairs(pages), path)}


def naive_pairs(pages: DataFrame) -> DataFrame:
    """A row a pair."""
    rows = pages.select("page_id", F.explode(F.arrays_zip("item_id", "clicked", "viewed")).alias("row")).where("row.viewed")
    left, right = (rows.select("page_id", F.col("row.item_id").alias(f"{side}_item"), F.col("row.clicked").alias(side))
                   for side in ("left", "right"))
    clicks = F.col("left").cast("int") + F.col("right").cast("int")
    kind = F.when(clicks == 2, "co_click").when(clicks == 1, "mono_click").otherwise("co_non_click")
    pairs = left.join(right, "page_id").where("left_item < right_item")
    return pairs.select("page_id", "left_item", "right_item", kind.alias("kind"))


def naive_counts(pages: DataFrame) -> DataFrame:
    """A row a page."""
    sums = [F.count_if(F.col("kind") == kind).alias(kind) for kind in PAIR_KINDS]
    return pages.select("page_id").join(naive_pairs(pages).groupBy("page_id").agg(*sums), "page_id", "left").na.fill(0)


if __name__ == "__main__":
    run_way({"ours": ours, "naive": naive})
