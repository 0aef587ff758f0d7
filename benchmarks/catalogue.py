"""What pages read of items when the whole catalogue comes anew every day: gathered versions, or the items of every day before.

    PYTHONPATH=. python benchmarks/catalogue.py [--items 500000] [--days 2,5,10,20]

Every day has a new version of every item. Both ways must find the same versions. Prints a table and, on the last line, JSON.
"""

import argparse
import json
import tempfile
import time
from datetime import date, timedelta
from typing import Any

from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from benchmarks.memory import cpu_seconds
from feature_store.row_digest import row_digest
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs.catalogue import item_days, item_versions, known_versions

FIRST = date(2026, 3, 2)


def snapshot(spark: SparkSession, items: int, ds: str) -> DataFrame:
    """A version of every item, valid and known from the start of a day on."""
    number, none = F.col("id"), F.lit(None)
    return spark.range(items).select(
        F.concat(F.lit("i"), number).alias("item_id"), F.concat(F.lit("c"), number % 5_000).alias("category_id"),
        none.alias("brand_id"), none.alias("shop_id"), F.rand(0).alias("price"), none.alias("features"),
        F.lit(ds).cast("timestamp").alias("valid_from"), F.lit(ds).cast("timestamp").alias("available_time"), F.lit(ds).alias("ds"))


def measured(spark: SparkSession, lake: Lake, ds: str, way: str) -> dict[str, Any]:
    """The versions that a day may need, found one way: their digest, the rows they are made of, seconds and CPU seconds."""
    cpu, started = cpu_seconds(), time.perf_counter()
    rows = known_versions(spark, lake, ds) if way == "gathered" else lake.read(spark, "items", item_days(lake, ds))
    found = item_versions(rows, ds)
    digest = str(found.agg(*row_digest(found, found.columns)).first())
    took = {"seconds": time.perf_counter() - started, "cpu_s": cpu_seconds() - cpu}
    return {"ds": ds, "way": way, "rows": rows.count(), **took, "digest": digest}


def both(spark: SparkSession, lake: Lake, ds: str) -> list[dict[str, Any]]:
    """Both ways on a day; stops when they find other versions."""
    runs = [measured(spark, lake, ds, way) for way in ("gathered", "every day")]
    for run in runs:
        print(f"{run['ds']:>12s}{run['way']:>12s}{run['rows']:12,}{run['seconds']:9.1f}{run['cpu_s']:8.1f}", flush=True)
    if len({run["digest"] for run in runs}) > 1:
        raise SystemExit(f"{ds}: the two ways found other versions")
    return runs


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--days", default="2,5,10,20", help="days that are measured, counted from 1, ascending")
    asked = parser.parse_args()
    spark, numbers, runs = spark_session("moveline-catalogue"), [int(n) for n in asked.days.split(",")], []
    print(f"{'day':>12s}{'way':>12s}{'rows':>12s}{'seconds':>9s}{'CPU, s':>8s}")
    with tempfile.TemporaryDirectory() as folder:
        lake = Lake(folder)
        for number in range(1, max(numbers) + 1):
            ds = str(FIRST + timedelta(number - 1))
            lake.table("items").begin(ds).commit(snapshot(spark, asked.items, ds), counts={}, inputs={"n": ds})
            if number in numbers:
                runs += both(spark, lake, ds)
            else:
                known_versions(spark, lake, ds)
    print(json.dumps({"benchmark": "catalogue", "items": asked.items, "runs": runs}))


if __name__ == "__main__":
    main()
