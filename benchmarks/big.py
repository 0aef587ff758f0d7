"""One run of a large log through both graphs to a registered model: 20 million events, 1 million users, 1 million items.

    PYTHONPATH=. python benchmarks/big.py [--events 20000000 --users 1000000 --items 1000000 --pages 400000]

Writes a raw log of two days (`benchmarks/big_log.py`) and its recipe below the state folder, runs `moveline demo` on it (Airflow,
Spark, TorchRec, MLflow; a day to train on, a day to test on), and says what every task held in memory at most. Then it holds the
tables against the log: every raw event, shown item and item must have come in, each must have gone out or been refused, every event
must be a token and every shown item lie on a page. Exits 1 when one is missing, when there is no registered model, or when a task
(all of its processes together) held more than 12 GB. A second start skips what is finished. The last line is JSON.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.compute as pc
import pyarrow.dataset as pads

from benchmarks.big_log import DAYS, Rows, Size, write
from benchmarks.memory import watch
from benchmarks.side_by_side import ROOT
from feature_store.home import home, lake_root
from feature_store.recipe import load_recipe
from feature_store.tables import Lake
from jobs import inspect_lake, inspect_models

RECIPE = """\
# Written by benchmarks/big.py.
name: big
days: {first: FIRST, last: LAST}
source:
  inputs:
    events: {path: "events/ds={ds}"}
    exposures: {path: "exposures/ds={ds}"}
    items: {path: "items/ds={ds}", optional: true, columns: "item_id STRING, category_id STRING, valid_from TIMESTAMP"}
  events:
    - from: events
      columns: {event_id: event_id, user_id: user_id, event_time: event_time, seq: seq, available_time: available_time,
                scene: scene, action: action, item_id: item_id, category_id: category_id, dwell_ms: dwell_ms}
  exposures:
    - from: exposures
      columns: {page_id: page_id, user_id: user_id, shown_time: shown_time, label_time: label_time, available_time: shown_time,
                scene: "'home'", scenario: "'feed'", item_id: item_id, position: position, viewed: viewed, clicked: clicked,
                click_time: click_time}
  items:
    - from: items
      columns: {item_id: item_id, category_id: category_id, valid_from: valid_from, available_time: valid_from}
split: {train_days: 1, test_days: 1, validate_hours: 6}
models:
  din: {epochs: 1}
"""
LIMIT_GB = 12


def prepared(size: Size) -> tuple[Path, Path, Rows]:
    """The recipe, the folder of the raw log, and how many rows that has; written unless it is there."""
    folder = home() / "big"
    conf, raw, known = folder / "big.yaml", folder / "raw", folder / "rows.json"
    wanted = asdict(size)
    folder.mkdir(parents=True, exist_ok=True)
    conf.write_text(RECIPE.replace("FIRST", DAYS[0]).replace("LAST", DAYS[-1]))
    if known.is_file() and (found := json.loads(known.read_text()))["size"] == wanted:
        return conf, raw, Rows(**found["rows"])
    rows = write(raw, size)
    known.write_text(json.dumps({"size": wanted, "rows": asdict(rows)}))
    print(f"log: {rows.events:,} events, {rows.exposures:,} shown items, {rows.items:,} items", flush=True)
    return conf, raw, rows


def run(conf: Path, raw: Path) -> dict[str, dict[str, int]]:
    """The demo on the log; the memory that each task held at most, by program."""
    command = [sys.executable, "-m", "jobs.main", "demo", "--conf", str(conf), "--data", str(raw), "--plain"]
    process = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)})
    most = watch(process)
    if process.returncode:
        sys.exit(process.returncode)
    return most


def missing(lake: Lake, rows: Rows) -> dict[str, tuple[int, int]]:
    """What the tables do not account for: expected and found."""
    tables = {own["table"]: own for own in inspect_lake.overview(lake)}
    expected = {f"{name}: in": count for name, count in asdict(rows).items()}
    found = {f"{name}: in": tables[name]["in"] for name in asdict(rows)}
    for name in asdict(rows):
        expected[f"{name}: out"], found[f"{name}: out"] = tables[name]["in"], tables[name]["rows"] + tables[name]["rejected"]
    walks = pads.dataset(lake.table("movelines").files(), format="parquet").to_table(columns=["n_tokens", "n_over_cap"])
    shown = pads.dataset(lake.table("pages").files(), format="parquet").to_table(columns=["n_merged", "item_id"])
    expected["tokens"], found["tokens"] = tables["events"]["rows"], sum(pc.sum(column).as_py() for column in walks.columns)
    expected["shown on pages"] = tables["exposures"]["rows"]
    found["shown on pages"] = pc.sum(pc.list_value_length(shown["item_id"])).as_py() + pc.sum(shown["n_merged"]).as_py()
    return {name: (count, found[name]) for name, count in expected.items() if found[name] != count}


def arguments() -> Size:
    """The size asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in asdict(Size()).items():
        parser.add_argument(f"--{name}", type=int, default=usual)
    return Size(**vars(parser.parse_args()))


def main() -> None:
    """Write the log, run, hold against each other."""
    size, started = arguments(), time.perf_counter()
    conf, raw, rows = prepared(size)
    most = run(conf, raw)
    recipe = load_recipe(conf)
    lost = missing(Lake(lake_root(recipe.name)), rows)
    models: list[dict[str, Any]] = [own for own in inspect_models.versions() if own["model"] == "big-din"]
    held = {name: sum(parts.values()) / 1e9 for name, parts in most.items() if name}
    for name, peak in held.items():
        print(f"{peak:6.2f} GB  {name}: " + ", ".join(f"{kind} {size / 1e9:.2f}" for kind, size in most[name].items()))
    print("every row is accounted for" if not lost else f"FAILED: not accounted for (expected, found): {lost}")
    print(f"registered: {[(own['model'], own['version'], own['alias']) for own in models]}")
    seconds = time.perf_counter() - started
    print(json.dumps({"benchmark": "big", "rows": asdict(rows), "seconds": seconds, "peak_gb": held, "lost": lost}))
    sys.exit(int(bool(lost) or not models or max(held.values()) > LIMIT_GB))


if __name__ == "__main__":
    main()
