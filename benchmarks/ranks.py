"""The same training of `din` with 1 and 2 ranks of one thread each: how much faster it is, and whether the losses are the same.

    PYTHONPATH=. python benchmarks/ranks.py [--pages 8000] [--items 1000000] [--batch 4096] [--rounds 2]

Encoded pages of 25 shown items and 50 tokens, two epochs; the rate is that of the second, without the
start of processes. `two apart` are two trainings with one rank each at the same time, which share nothing: what the machine can
give at most. The variants take turns. Prints a table and, on the last line, JSON; exits with 1 when a loss differs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks import din_data
from feature_store.encoded_set import EncodedSet
from feature_store.recipe import Recipe
from jobs.train import train

SAME = 1e-4
"""Losses may differ by this much: sums of floats in another order."""

RECIPE = {"name": "ranks", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]}}
Figures = dict[str, Any]


def one(asked: argparse.Namespace) -> Figures:
    """A whole training in this process and those it starts."""
    pages = EncodedSet.load(asked.folder / "pages")
    conf = Recipe.model_validate({**RECIPE, "models": {"din": {"epochs": 2, "dim": asked.dim, "items_a_batch": asked.batch}}})
    with tempfile.TemporaryDirectory() as out:
        os.environ["MOVELINE_HOME"] = out
        done = train(conf, "din", pages, None, Path(out) / "model", processes=asked.ranks, resume=False)
    last = done.history[-1]
    return {"items_per_s": pages.items / last["seconds"], "data_wait": last["data_wait"], "memory_mb": last["memory_mb"],
            "seconds": done.seconds, "losses": done.losses}


def measured(asked: argparse.Namespace, folder: Path, ranks: int, at_once: int = 1) -> Figures:
    """Trainings in processes of their own, at the same time; their rates together, the rest of the first."""
    command = [sys.executable, str(Path(__file__)), f"--folder={folder}", f"--ranks={ranks}", f"--dim={asked.dim}",
               f"--batch={asked.batch}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) for _ in range(at_once)]
    said = [process.communicate()[0] for process in running]
    if any(process.returncode for process in running):
        sys.exit(f"a training with {ranks} ranks failed; it says why above")
    found = [json.loads(text.splitlines()[-1]) for text in said]
    return {**found[0], "items_per_s": sum(own["items_per_s"] for own in found)}


VARIANTS = {"1 rank": (1, 1), "2 ranks": (2, 1), "two apart": (1, 2)}


def compare(asked: argparse.Namespace, folder: Path) -> dict[str, Figures]:
    """The median of the rounds of each variant; the losses of the first round."""
    found: dict[str, list[Figures]] = {name: [] for name in VARIANTS}
    for _ in range(asked.rounds):
        for name, (ranks, at_once) in VARIANTS.items():
            found[name].append(measured(asked, folder, ranks, at_once))
    return {name: {key: value if key == "losses" else statistics.median(own[key] for own in runs) for key, value in runs[0].items()}
            for name, runs in found.items()}


def show(found: dict[str, Figures]) -> dict[str, Any]:
    """Print the table; the figures without the losses, and how far these are apart at most."""
    base = found["1 rank"]["items_per_s"]
    print(f"{'':12}{'items/s':>10} {'of 1 rank':>10} {'data wait':>10} {'memory a rank':>14} {'whole run':>10}")
    for name, own in found.items():
        print(f"{name:12}{own['items_per_s']:10,.0f} {own['items_per_s'] / base:10.2f} {own['data_wait']:10.1%} "
              f"{own['memory_mb']:11,.0f} MB {own['seconds']:8.1f} s")
    losses = [found[name]["losses"] for name in ("1 rank", "2 ranks")]
    apart = max((abs(a - b) for a, b in zip(*losses, strict=True)), default=0.0)
    print(f"losses of {len(losses[0])} steps, from {losses[0][0]:.4f} to {losses[0][-1]:.4f}: at most {apart:.1e} apart")
    return {name: {key: value for key, value in own.items() if key != "losses"} for name, own in found.items()} | {
        "speedup": found["2 ranks"]["items_per_s"] / base, "losses_apart": apart}


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, usual in (("pages", 8_000), ("items", 1_000_000), ("batch", 4_096), ("dim", 16), ("rounds", 2)):
        parser.add_argument(f"--{name}", type=int, default=usual)
    for name, kind, usual in (("folder", Path, None), ("ranks", int, 1)):
        parser.add_argument(f"--{name}", type=kind, default=usual, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.folder:
        print(json.dumps(one(asked)))
        return
    with tempfile.TemporaryDirectory() as folder:
        din_data.write_pages(Path(folder) / "pages", asked.pages, asked.items)
        found = show(compare(asked, Path(folder)))
    about = {name: getattr(asked, name) for name in ("pages", "items", "batch", "dim", "rounds")}
    print(json.dumps({**about, **found}))
    if found["losses_apart"] > SAME:
        sys.exit(f"the losses are {found['losses_apart']:.1e} apart; {SAME:.0e} is what another order of sums may make")


if __name__ == "__main__":
    main()
