"""Shown items a second that `din` is trained on, beside FuxiCTR's DIN on the same pages in impression layout, in the same run.

    PYTHONPATH=. python benchmarks/train.py [--dims 16,32] [--pages 40000] [--items 1000000] [--seconds 12] [--rounds 2]

Pages of 25 shown items, 50 tokens of history, a table of 1,000,000 items, batches of 4,096 shown items. Ours reads encoded pages
through its loader and trains with its trainer; the rival is the DIN of FuxiCTR 2.3.10 with its own loader and training step, in an
environment of its own below the state folder. `in memory` trains on batches that were made before the clock started. Each side is
a process of its own, they take turns, and both have the same number of threads. CPU is that of the training process with all its
threads: ours reads in a thread of it, the rival in a process of its own, which is not counted. Prints a table and, on the last
line, JSON; exits with 1 when our share of time spent waiting for data is above 5 %.
"""

import argparse
import itertools
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from benchmarks import din_data
from benchmarks.pace import pace
from benchmarks.plots import bars
from benchmarks.rival_env import rival_python
from benchmarks.side_by_side import answer
from feature_store.encoded_set import EncodedSet
from feature_store.loader import PageStream
from jobs.train import SHARDS
from models.catalog import model_class
from models.distributed import process_group
from models.embeddings import capacities
from models.trainer import Trainer

MOST_WAIT = 0.05
FUXICTR = "fuxictr==2.3.10"
MEMORY = 24
"""Batches of the variants that are timed without a loader."""

Figures = dict[str, float]
OURS, OURS_MEMORY = "din", "din, in memory"
RIVAL = {"FuxiCTR DIN": [], "FuxiCTR DIN, in memory": ["--memory", str(MEMORY)],
         "FuxiCTR DIN, our widths": ["--widths", "ours"],
         "FuxiCTR DIN, our widths, in memory": ["--widths", "ours", "--memory", str(MEMORY)],
         "FuxiCTR DIN, batches of 16,384": ["--batch", "16384"]}


def ours(asked: argparse.Namespace) -> Figures:
    """One measurement of our side, in this process."""
    torch.set_num_threads(asked.threads)
    pages = EncodedSet.load(asked.folder / "pages")
    rows = capacities({"item": asked.items, **din_data.SMALL})
    with process_group() as place, tempfile.TemporaryDirectory() as folder:
        stream = PageStream(pages, items_a_batch=asked.batch // SHARDS, shards=SHARDS, rows=rows)
        trainer = Trainer(model_class("din").build({"dim": asked.dim}, rows), place, stream, None, folder)
        trainer.wrapped.train()
        return pace(_batches(stream, asked.memory), trainer.step, lambda batch: batch.items, asked.seconds)


def _batches(stream: PageStream, memory: int) -> Iterator[Any]:
    endless = itertools.chain.from_iterable(stream.epoch(number) for number in itertools.count())
    return itertools.cycle(list(itertools.islice(endless, memory))) if memory else endless


def measured(command: list[str], asked: argparse.Namespace) -> Figures:
    """The JSON of one measurement in a process of its own."""
    common = [f"--{name}={getattr(asked, name)}" for name in ("items", "batch", "threads", "seconds")]
    environment = {**os.environ, "OMP_NUM_THREADS": str(asked.threads), "PYTHONPATH": str(Path(__file__).resolve().parent.parent)}
    return answer([*command[:2], *common, *command[2:]], environment)


def commands(asked: argparse.Namespace, folder: Path, dim: int) -> dict[str, list[str]]:
    """What is measured at one dim, by name."""
    here = [sys.executable, str(Path(__file__)), f"--folder={folder}", f"--dim={dim}"]
    python = rival_python("fuxictr", f"torch=={torch.__version__.partition('+')[0]}", FUXICTR)
    rival = [str(python), str(Path(__file__).with_name("fuxictr_din.py")), f"--data={folder / 'impressions'}", f"--dim={dim}"]
    return {OURS: here, OURS_MEMORY: [*here, f"--memory={MEMORY}"],
            **{name: [*rival, *more] for name, more in RIVAL.items() if not asked.few or name in list(RIVAL)[:2]}}


def compare(asked: argparse.Namespace, folder: Path, dim: int) -> dict[str, Figures]:
    """The median of the rounds of every variant; they take turns."""
    found: dict[str, list[Figures]] = {}
    for _ in range(asked.rounds):
        for name, command in commands(asked, folder, dim).items():
            found.setdefault(name, []).append(measured(command, asked))
            print(f"dim {dim}, {name}: {found[name][-1]['items_per_s']:,.0f} items/s", file=sys.stderr, flush=True)
    return {name: {key: own[0][key] if isinstance(own[0][key], str) else statistics.median(one[key] for one in own)
                   for key in own[0]} for name, own in found.items()}


def show(dim: int, found: dict[str, Figures]) -> None:
    """The table of one dim. Variants in memory are compared with ours in memory."""
    names = f"{'items/s':>10} {'ms a step':>10} {'data wait':>10} {'CPU us/item':>12} {'memory':>9}   ours is faster by (CPU)"
    print(f"dim {dim:<32} {names}")
    for name, own in found.items():
        base = found[OURS_MEMORY if name.endswith("in memory") else OURS]
        ratios = (base["items_per_s"] / own["items_per_s"], own["cpu_a_item_us"] / base["cpu_a_item_us"])
        ratio = "" if name.startswith("din") else f"{ratios[0]:8.1f} ({ratios[1]:.1f})"
        figures = (f"{own['items_per_s']:10,.0f} {own['ms_a_step']:10.1f} {own['data_wait']:10.1%} {own['cpu_a_item_us']:12.1f} "
                   f"{own['memory_mb']:6,.0f} MB")
        print(f"{name:36} {figures} {ratio}")


def arguments() -> argparse.Namespace:
    """What was asked on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dims", default="16,32")
    parser.add_argument("--few", action="store_true", help="only both sides as they are, with and without their loaders")
    parser.add_argument("--plot", type=Path, help="SVG file to draw the rates into")
    parser.add_argument("--seconds", type=float, default=12.0, help="of each measurement, after four steps that warm up")
    for name, usual in (("pages", 40_000), ("items", 1_000_000), ("batch", 4_096), ("threads", 1), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name, kind, usual in (("folder", Path, None), ("dim", int, 16), ("memory", int, 0)):
        parser.add_argument(f"--{name}", type=kind, default=usual, help=argparse.SUPPRESS)
    return parser.parse_args()


def main() -> None:
    """Measure and print."""
    asked = arguments()
    if asked.folder:  # one measurement of our side
        print(json.dumps(ours(asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        din_data.write_pages(Path(folder) / "pages", asked.pages, asked.items)
        din_data.write_impressions(Path(folder) / "impressions", asked.pages, asked.items)
        found = {dim: compare(asked, Path(folder), dim) for dim in map(int, asked.dims.split(","))}
    for dim, own in found.items():
        show(dim, own)
    if asked.plot:
        bars({f"dim {dim}": {name: one["items_per_s"] for name, one in own.items()} for dim, own in found.items()},
             "shown items a second", asked.plot)
    print(json.dumps({"pages": asked.pages, "items": asked.items, "threads": asked.threads, "rounds": asked.rounds, "dims": found}))
    waits = max(own[OURS]["data_wait"] for own in found.values())
    if waits > MOST_WAIT:
        sys.exit(f"{waits:.1%} of the time was spent waiting for data; it should be {MOST_WAIT:.0%} at most")


if __name__ == "__main__":
    main()
