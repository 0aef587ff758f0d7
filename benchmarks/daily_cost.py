"""What a day costs as the history grows: CPU seconds and bytes read of day 2, 7 and 30, with as many events every day.

    PYTHONPATH=. python benchmarks/daily_cost.py [--days 2,7,30] [--users 300]

A simulated log of that many days, in a state folder of its own. The days between are built in one session; each measured day runs
all its tables (`jobs.daily`, with the day before it brought up to date, as every day) in a Spark application of its own, as in
operation. Not counted is the start of Spark: CPU and bytes are taken from a first small job on. CPU is that of the whole tree of
processes; bytes are those Hadoop's file systems read (tables, raw files; not the shuffle) and those this process read itself (the
Delta log). Prints a table and, on the last line, JSON.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
from pyspark.sql import SparkSession

from benchmarks.doses import write_recipe
from benchmarks.memory import cpu_seconds
from benchmarks.side_by_side import ROOT, answer
from feature_store.home import lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs.daily import run_day
from jobs.simulate import simulate

BASE = ROOT / "conf" / "simulated.yaml"
FIRST = date(2026, 2, 1)
LIMIT = 1.2


def bytes_read(spark: SparkSession) -> dict[str, int]:
    """So far: `files` through Hadoop's file systems, `log` by this process itself, which reads the Delta log and no rows."""
    hadoop = spark.sparkContext._jvm.org.apache.hadoop.fs.FileSystem.getAllStatistics()
    return {"files": sum(own.getBytesRead() for own in hadoop), "log": psutil.Process().io_counters().read_chars}


def built(spark: SparkSession, recipe: Recipe, conf: Path, ds: str) -> Iterator[dict[str, Any]]:
    """The tables of a day and of those before it that were built again with it; rows, milliseconds and bytes read of each."""
    lake, raw, before = Lake(lake_root(recipe.name)), raw_root(recipe.name), bytes_read(spark)
    for result in run_day(spark, recipe, lake, ds, str(raw), str(conf)):
        now = bytes_read(spark)
        own = {name: count - before[name] for name, count in now.items()}
        yield {"table": result.table, "ds": result.ds, "rows": result.rows, "ms": round(1_000 * result.seconds), **own}
        before = now


def measure(conf: Path, days: list[str], last_counts: bool) -> dict[str, Any]:
    """Build some days in one session; what the last of them took."""
    recipe, spark = load_recipe(conf), spark_session("moveline-daily-cost")
    if not raw_root(recipe.name).exists():
        simulate(spark, recipe, raw_root(recipe.name))
    for ds in days[:-1] if last_counts else days:
        list(built(spark, recipe, conf, ds))
    if not last_counts:
        return {}
    spark.range(1_000).groupBy("id").count().count()
    cpu, started = cpu_seconds(), time.perf_counter()
    tables = list(built(spark, recipe, conf, days[-1]))
    found = {"ds": days[-1], "seconds": time.perf_counter() - started, "cpu_s": cpu_seconds() - cpu,
             "read_bytes": sum(own[name] for own in tables for name in ("files", "log")), "tables": tables}
    spark.stop()
    return found


def in_a_process(conf: Path, days: list[str], last_counts: bool) -> dict[str, Any]:
    """`measure` in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--conf", str(conf), "--of", ",".join(days)]
    return answer([*command, *(["--counts"] if last_counts else [])])


def compare(numbers: list[int], users: int) -> list[dict[str, Any]]:
    """Every measured day, after those before it."""
    days = [str(FIRST + timedelta(n)) for n in range(max(numbers))]
    settings = {**(load_recipe(BASE).simulator or {}), "users": users}
    conf = write_recipe(BASE, "daily_cost", {"days": {"first": days[0], "last": days[-1]}, "simulator": settings})
    found, done = [], 0
    for number in numbers:
        if between := days[done:number - 1]:
            in_a_process(conf, between, False)
        found.append({"day": number, **in_a_process(conf, [days[number - 1]], True)})
        done = number
        print(f"day {number}: {found[-1]['cpu_s']:.1f} CPU s, {found[-1]['read_bytes'] / 1e6:.1f} MB", file=sys.stderr, flush=True)
    return found


def show_tables(last: dict[str, Any], first: dict[str, Any]) -> None:
    """Where the bytes of the last day come from, beside those of the first. `events` has ingest's and those of the day before."""
    print(f"{'table':12s}{'of day':>12s}{'files, kB':>11s}{'was':>9s}{'log, kB':>10s}{'was':>9s}")
    before = {(own["table"], own["ds"] == first["ds"]): own for own in first["tables"]}
    for own in last["tables"]:
        was = before.get((own["table"], own["ds"] == last["ds"]), {"files": 0, "log": 0})
        print(f"{own['table']:12s}{own['ds']:>12s}{own['files'] / 1e3:11.0f}{was['files'] / 1e3:9.0f}"
              f"{own['log'] / 1e3:10.0f}{was['log'] / 1e3:9.0f}")


def main() -> None:
    """Measure and print; with `--of`, be one of the processes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", default="2,7,30", help="days that are measured, counted from 1, ascending")
    parser.add_argument("--users", type=int, default=300)
    parser.add_argument("--conf", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--of", help=argparse.SUPPRESS)
    parser.add_argument("--counts", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.of:
        print(json.dumps(measure(asked.conf, asked.of.split(","), asked.counts)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOVELINE_HOME"] = folder
        found = compare([int(number) for number in asked.days.split(",")], asked.users)
    base, last = found[0], found[-1]
    print(f"{'day':>4s}{'events':>10s}{'CPU, s':>10s}{'ratio':>8s}{'read, MB':>10s}{'ratio':>8s}{'wall, s':>9s}")
    for own in found:
        [events] = [table["rows"] for table in own["tables"] if (table["table"], table["ds"]) == ("events", own["ds"])]
        print(f"{own['day']:4d}{events:10,}{own['cpu_s']:10.1f}{own['cpu_s'] / base['cpu_s']:8.2f}"
              f"{own['read_bytes'] / 1e6:10.1f}{own['read_bytes'] / base['read_bytes']:8.2f}{own['seconds']:9.1f}")
    show_tables(last, base)
    worst = max(last[name] / base[name] for name in ("cpu_s", "read_bytes"))
    print(f"goal: the last day at most {LIMIT} times the first: {'reached' if worst <= LIMIT else f'missed, {worst:.2f}'}")
    print(json.dumps({"benchmark": "daily_cost", "users": asked.users, "days": found}))


if __name__ == "__main__":
    main()
