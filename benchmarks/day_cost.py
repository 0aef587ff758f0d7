"""What a day of the simulated shop costs at some number of users: the constants of `benchmarks/cost_model.py`.

    PYTHONPATH=. python benchmarks/day_cost.py --users 3000
    PYTHONPATH=. python benchmarks/day_cost.py --users 12000
    PYTHONPATH=. python benchmarks/day_cost.py --words

Simulates two days in a state folder of its own, builds the first, and measures the second, job by job: CPU seconds of the JVM, of
its Python workers and of the driver, bytes that Spark read and shuffled (its event log), bytes and rows of each table. Then the
pages of both days are encoded, and an untrained `din` is judged on the second in a process of its own. Two sizes tell what a job
costs however little it does from what each further user costs. Prints a table and, on the last line, JSON.
"""

import argparse
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import psutil
import pyarrow as pa

from benchmarks.doses import write_recipe
from benchmarks.memory import cpu_seconds
from benchmarks.side_by_side import answer
from feature_store.batch import VOCABULARY_FIELDS
from feature_store.encoded_set import EncodedSet
from feature_store.home import home, lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.session import spark_session
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs import flows, ingest, movelines, pages, pairs, visits, vocabulary
from jobs.encode import encode_training
from jobs.evaluate import evaluate
from jobs.simulate import simulate
from models.artifact import Weights, save_artifact
from models.catalog import model_class
from models.embeddings import capacities

BASE = Path(__file__).resolve().parent.parent / "conf" / "simulated.yaml"
FIRST, SECOND = "2026-03-02", "2026-03-03"
SECTIONS = {"days": {"first": FIRST, "last": SECOND}, "split": {"train_days": 1, "test_days": 1, "validate_hours": 6}}
_MS = 1e3
T = TypeVar("T")


@dataclass
class Step:
    """One job of the day: CPU and wall seconds, and when it ran (unix time); bytes are filled in from Spark's event log."""

    begin: float
    end: float
    cpu_s: float
    read: int = 0
    shuffled: int = 0

    @property
    def figures(self) -> dict[str, float]:
        """For the JSON line."""
        seconds = {"wall_s": round(self.end - self.begin, 2), "cpu_s": round(self.cpu_s, 2)}
        return {**seconds, "read": self.read, "shuffled": self.shuffled}


@dataclass
class Clock:
    """Measures jobs one after the other."""

    steps: dict[str, Step] = field(default_factory=dict)

    def run(self, name: str, work: Callable[[], T]) -> T:
        """Do one job."""
        begin, before = time.time(), cpu_seconds()
        done = work()
        self.steps[name] = Step(begin, time.time(), cpu_seconds() - before)
        return done

    def add_bytes(self, log: Path) -> None:
        """Bytes read and shuffled by the tasks that began while a job ran."""
        for launched, read, shuffled in tasks_of(log):
            for step in self.steps.values():
                if step.begin <= launched < step.end:
                    step.read, step.shuffled = step.read + read, step.shuffled + shuffled


def tasks_of(log: Path) -> Iterator[tuple[float, int, int]]:
    """Start (unix time), bytes read and bytes shuffled of every task in Spark's event log."""
    for path in (p for p in log.iterdir() if not p.name.startswith(".")):  # Hadoop's checksums lie beside it
        for line in path.open():
            event = json.loads(line)
            metrics = event.get("Task Metrics")
            if event["Event"] == "SparkListenerTaskEnd" and metrics:
                yield (event["Task Info"]["Launch Time"] / _MS, metrics["Input Metrics"]["Bytes Read"],
                       metrics["Shuffle Write Metrics"]["Shuffle Bytes Written"])


def build(clock: Clock, spark: Any, recipe: Recipe, conf: Path, ds: str) -> dict[str, int]:
    """Every table of a day; rows by table."""
    lake, raw = Lake(lake_root(recipe.name)), str(raw_root(recipe.name))
    jobs: dict[str, Callable[[], Any]] = {
        "ingest": lambda: ingest.build(spark, recipe, lake, ds, raw, str(conf)),
        **{job.__name__.partition(".")[2]: (lambda job=job: job.build(spark, recipe, lake, ds))
           for job in (movelines, visits, vocabulary)},
        "pages": lambda: pages.build(spark, recipe, lake, ds, recipe_path=conf),
        "pairs": lambda: pairs.build(spark, recipe, lake, ds), "flows": lambda: flows.build(spark, recipe, lake, ds)}
    rows: dict[str, int] = {}
    for name, job in jobs.items():
        made = clock.run(name, job)
        rows |= {result.table: result.rows for result in (made if isinstance(made, list) else [made])}
    return rows


def bytes_below(folder: Path) -> int:
    """Size of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def judged(sets: dict[str, EncodedSet], words: Vocabulary) -> dict[str, float]:
    """CPU seconds and peak memory of judging an untrained `din` on the second day, in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        words.save(Path(folder) / "words.parquet")
        model = model_class("din").build({}, capacities({name: words.rows(name) for name in VOCABULARY_FIELDS}))
        save_artifact(folder, model, Weights(model.state_dict(), {}), Path(folder) / "words.parquet")
        command = [sys.executable, str(Path(__file__)), "--judge", folder, sets["train"].folder, sets["test"].folder]
        return answer(command)


def judge(folder: str, train: str, test: str) -> dict[str, float]:
    """Judge in this process."""
    before = resource.getrusage(resource.RUSAGE_SELF)
    rows = EncodedSet.load(test)
    evaluate(folder, EncodedSet.load(train), rows)
    after = resource.getrusage(resource.RUSAGE_SELF)
    return {"cpu_s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, "items": rows.items,
            "memory": (after.ru_maxrss - before.ru_maxrss) * 1024}


def measure(users: int) -> dict[str, Any]:
    """All figures of one size."""
    conf = write_recipe(BASE, f"cost{users}", {**SECTIONS, "simulator": {**load_recipe(BASE).simulator, "users": users}})
    recipe, log, warm, clock = load_recipe(conf), home() / "events", Clock(), Clock()
    log.mkdir(parents=True)
    events = {"enabled": "true", "dir": f"file://{log}", "compress": "false", "rolling.enabled": "false"}
    settings = " ".join(f"--conf spark.eventLog.{key}={value}" for key, value in events.items())
    os.environ["PYSPARK_SUBMIT_ARGS"] = f"{settings} pyspark-shell"
    spark = spark_session("moveline-cost")
    try:
        simulate(spark, recipe, raw_root(recipe.name))
        build(warm, spark, recipe, conf, FIRST)
        rows = build(clock, spark, recipe, conf, SECOND)
        lake = Lake(lake_root(recipe.name))
        sets, words = clock.run("encode", lambda: encode_training(spark, recipe, lake, SECOND))
    finally:
        spark.stop()
    clock.add_bytes(log)
    tables = {name: bytes_below(Path(lake_root(recipe.name)) / name / f"ds={SECOND}") for name in rows}
    raw = sum(bytes_below(raw_root(recipe.name) / name / f"ds={SECOND}") for name in ("events", "exposures", "items"))
    encoded = [own for found in sets.values() for own in found.files]
    return {"users": users, "rows": rows, "bytes": tables, "raw_bytes": raw,
            "jobs": {name: step.figures for name, step in clock.steps.items()},
            "encoded": {"bytes": sum(f.bytes for f in encoded), "pages": sum(f.rows for f in encoded),
                        "items": sum(f.items for f in encoded)},
            "vocabulary": {"ids": words.entries().num_rows, "bytes": bytes_below(Path(lake_root(recipe.name)) / "vocabulary")},
            "judge": judged(sets, words)}


def bytes_an_id(ids: int = 1_000_000) -> float:
    """Memory a vocabulary takes an id once something was looked up in it, as every worker that encodes holds it."""
    numbers = np.arange(ids)
    entries = pa.table({"field": pa.repeat("item", ids), "id": [f"item{n:010d}" for n in numbers], "index": numbers + 17,
                        "first_time": pa.repeat(pa.scalar(0, pa.timestamp("us", "UTC")), ids)})
    before = psutil.Process().memory_info().rss
    words = Vocabulary(entries, 16)
    words.encode("item", pa.array(["item0000000000"]))
    return (psutil.Process().memory_info().rss - before) / words.entries().num_rows


def show(found: dict[str, Any]) -> None:
    """The table."""
    print(f"{found['users']:,} users, the second day: " + ", ".join(f"{name} {n:,}" for name, n in found["rows"].items()))
    print(f"{'job':12}{'wall s':>8}{'CPU s':>8}{'read MB':>10}{'shuffled MB':>13}")
    for name, own in found["jobs"].items():
        print(f"{name:12}{own['wall_s']:8.1f}{own['cpu_s']:8.1f}{own['read'] / 1e6:10.1f}{own['shuffled'] / 1e6:13.1f}")
    print(f"MB: raw {found['raw_bytes'] / 1e6:.2f}, " + ", ".join(f"{n} {size / 1e6:.2f}" for n, size in found["bytes"].items()))
    own = found["judge"]
    print(f"judge: {own['cpu_s']:.1f} CPU s and {own['memory'] / 1e6:.0f} MB for {own['items']:,} shown items")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=3_000)
    parser.add_argument("--words", action="store_true", help="only the memory that a vocabulary takes an id")
    parser.add_argument("--judge", nargs=3, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.words:
        print(json.dumps({"vocabulary_bytes_an_id": round(bytes_an_id(), 1)}))
        return
    if asked.judge:
        print(json.dumps(judge(*asked.judge)))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MOVELINE_HOME"] = folder
        os.environ.pop("MOVELINE_LAKE", None)
        found = measure(asked.users)
    show(found)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
