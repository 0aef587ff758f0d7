"""Our jobs on a skewed log beside the same log without: one user with 10 % of the events, one scene with 90 %, a page of 10,000.

    PYTHONPATH=. python benchmarks/skew.py [--events 1000000] [--pages 50000] [--rounds 3] [--skews user,scene,page]

`user` and `scene` go through the stages of `benchmarks/moveline_build.py`, `page` through the job of `benchmarks/pairs.py`. Every
task gets a Python worker of its own (Spark's reuse is off, so the seconds are higher than there), whose largest memory is looked at
ten times a second: where our code runs. CPU seconds are not told: Spark's daemon does not add up those of workers that ended.
Goal: at most 1.5 times the seconds, and no worker above 2 times the median one. Prints a table and, on the last line, JSON.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa

from benchmarks import moveline_build, pairs
from benchmarks.side_by_side import ROOT, Found, last_line, warm

_EVERY_S = 0.1
USER_SHARE, SCENE_SHARE, LONG_PAGE = 0.1, 0.9, 10_000
PLAIN = {"user": "plain", "scene": "plain", "page": "pages"}
"""The data without each skew."""


def one_user(events: pa.Table, draw: np.random.Generator) -> pa.Table:
    """A tenth of the events becomes one user's."""
    chosen = pa.array(draw.random(len(events)) < USER_SHARE)
    return _with(events, "user_id", pa.compute.if_else(chosen, pa.scalar("u000000000"), events["user_id"]))


def one_scene(events: pa.Table, draw: np.random.Generator) -> pa.Table:
    """Nine tenths of the events become one scene's."""
    chosen = pa.array(draw.random(len(events)) < SCENE_SHARE)
    return _with(events, "scene", pa.compute.if_else(chosen, pa.scalar("home"), events["scene"]))


def _with(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), table.schema.field(name), values)


def logs(folder: Path, count: int) -> None:
    """The log as it is, and with each skew of events."""
    draw = np.random.default_rng(0)
    plain = moveline_build.events(count, draw)
    changed: dict[str, Callable[[pa.Table, np.random.Generator], pa.Table]] = {"user": one_user, "scene": one_scene}
    moveline_build.save(folder / "plain", plain, draw)
    for name, change in changed.items():
        moveline_build.save(folder / name, change(plain, draw), draw)


def shown(folder: Path, count: int) -> None:
    """The pages as they are, and with a long one."""
    for name, more in (("pages", []), ("page", [LONG_PAGE])):
        draw = np.random.default_rng(0)
        pairs.write(folder / name, np.append(pairs.lengths_of(count, draw), np.array(more, np.int64)), draw)


def run(folder: Path, name: str, rounds: int) -> tuple[Found, list[int]]:
    """Seconds, and the most bytes that each Python worker held."""
    script, *words = ("pairs_spark.py", "--stages", "sample") if name.startswith("page") else ("moveline_spark.py",)
    command = [sys.executable, str(ROOT / "benchmarks" / script), "ours", "--input", str(folder / name),
               "--output", str(folder / "out" / name), "--rounds", str(rounds), *words]
    fresh = "--conf spark.python.worker.reuse=false pyspark-shell"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True,
                               env={**os.environ, "PYTHONPATH": str(ROOT), "PYSPARK_SUBMIT_ARGS": fresh})
    most: dict[int, int] = {}
    while process.poll() is None:
        for pid, held in _workers(psutil.Process(process.pid)).items():
            most[pid] = max(most.get(pid, 0), held)
        time.sleep(_EVERY_S)
    line = last_line(process)
    return Found(line["seconds"], line["cpu"], 0), list(most.values())


def _workers(root: psutil.Process) -> dict[int, int]:
    """Bytes of the workers now: the processes that Spark's Python daemon forked."""
    found = {}
    try:
        for process in root.children(recursive=True):
            if process.name().startswith("python") and process.parent().name().startswith("python") and process.ppid() != root.pid:
                found[process.pid] = process.memory_info().rss
    except (psutil.Error, AttributeError):
        return found
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--pages", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--skews", default=",".join(PLAIN))
    asked = parser.parse_args()
    skews = asked.skews.split(",")
    with tempfile.TemporaryDirectory() as name:
        logs(Path(name), asked.events)
        shown(Path(name), asked.pages)
        ways = dict.fromkeys([*(PLAIN[skew] for skew in skews), *skews])
        found = {way: run(Path(name), way, asked.rounds) for way in ways}
    rows = [row(way, own, found[PLAIN.get(way, way)][0]) for way, own in found.items()]
    print(f"{'':8s}{'seconds by stage':44s}{'of plain':>9s}{'worker, MB: median':>20s}{'largest':>9s}{'ratio':>7s}")
    for own in rows:
        stages = ", ".join(f"{stage} {seconds:.2f}" for stage, seconds in own["seconds"].items())
        print(f"{own['skew']:8s}{stages:44s}{own['longer']:8.2f}×{own['median_mb']:20,.0f}{own['largest_mb']:9,.0f}"
              f"{own['largest_mb'] / own['median_mb']:7.2f}")
    print(json.dumps({"benchmark": "skew", "events": asked.events, "pages": asked.pages, "runs": rows}))


def row(name: str, found: tuple[Found, list[int]], plain: Found) -> dict[str, Any]:
    """One line of the table."""
    took, held = found
    seconds = {stage: warm(rounds) for stage, rounds in took.seconds.items()}
    return {"skew": name, "seconds": seconds, "longer": took.total / plain.total, "median_mb": statistics.median(held) / 1e6,
            "largest_mb": max(held) / 1e6, "tasks": len(held)}


if __name__ == "__main__":
    main()
