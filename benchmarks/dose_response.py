"""amen, amen without its generator, and din, as an effect of the simulated shop grows: docs/results/amen.md.

    PYTHONPATH=. python benchmarks/dose_response.py build  --strength intent_drift    simulate and build the tables of every dose
    PYTHONPATH=. python benchmarks/dose_response.py train  --strength intent_drift    train every arm with every seed on every dose
    PYTHONPATH=. python benchmarks/dose_response.py report --strength intent_drift    the table, the plot, and the record

Every dose is `conf/simulated_amen.yaml` with one strength changed, at the values that docs/results/frozen.md fixed beforehand; the
published dose is that recipe itself. What is finished is skipped. `train --share 1/2` does every second (dose, seed), for two
processes side by side. Intervals: users resampled, pairwise, and seeds (`jobs.comparison.apart`). `report` keeps the differences in
`benchmarks/dose_<strength>.json`, so that the plot also shows doses that were run before, or on another machine.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from benchmarks.doses import build, plot, recorded, write_recipe
from feature_store.recipe import load_recipe
from jobs import flows
from jobs.ablation import METRICS, finished, prepare, run_arm, unfinished
from jobs.comparison import Apart, apart, by_arm

BASE = Path(__file__).resolve().parent.parent / "conf" / "simulated_amen.yaml"
DOSES = {"intent_drift": (0.0, 0.33, 0.67, 1.0), "scene_causality": (0.0, 0.25, 0.5, 0.75)}
PUBLISHED = {"intent_drift": 1.0, "scene_causality": 0.5}
SHOWN = (("amen", "no NIF"), ("no NIF", "din"), ("amen", "shuffled flow"), ("shuffled flow", "no NIF"), ("amen", "no init"),
         ("no init", "no NIF"), ("future oracle", "amen"), ("amen", "no TSP"), ("amen", "TSP on a page"))
"""Differences of the table: first minus second."""


def recipe_of(strength: str, dose: float) -> Path:
    """The recipe of a dose; the published one is `BASE` itself."""
    if dose == PUBLISHED[strength]:
        return BASE
    settings = {**(load_recipe(BASE).simulator or {}), strength: dose}
    return write_recipe(BASE, f"dose_{strength}_{round(100 * dose)}", {"simulator": settings})


def train(confs: list[Path], arms: list[str], seeds: int, share: tuple[int, int]) -> None:
    """Every arm with every seed on every dose; this process does the (dose, seed) of its share, counted from 0."""
    for place, (seed, conf) in enumerate((seed, conf) for seed in range(1, seeds + 1) for conf in confs):
        if place % share[1] != share[0] - 1:
            continue
        recipe, prepared = load_recipe(conf), prepare(conf)
        for arm in [own for own, number in unfinished(recipe, prepared, arms, seeds) if number == seed]:
            found = run_arm(conf, prepared, arm, seed)
            gauc, seconds = found["metrics"]["test.gauc"], found["seconds"]
            print(f"{recipe.name} {arm}, seed {seed}: gauc {gauc:.4f} in {seconds:.0f} s", flush=True)


def report(strength: str, doses: Sequence[float], out: Path) -> None:
    """The table of these doses on standard output; the plot of all that are on record as `<out>/dose_<strength>.svg`."""
    found: dict[float, dict[str, Apart]] = {}
    for dose in doses:
        arms = by_arm(finished(prepare(recipe_of(strength, dose))))
        found[dose] = {f"{left} - {right}": apart(arms[left], arms[right], "gauc")
                       for left, right in SHOWN if left in arms and right in arms}
        means = {arm: {m: round(sum(r["metrics"][f"test.{m}"] for r in own.values()) / len(own), 5) for m in METRICS}
                 for arm, own in arms.items()}
        print(f"\n{strength} = {dose:g}, seeds {sorted({len(own) for own in arms.values()})}: {json.dumps(means)}")
        for name, own in found[dose].items():
            print(f"| {dose:g} | {name} | {own.value:+.4f} [{own.low:+.4f}, {own.high:+.4f}] | {own.detectable:.4f} |")
    lines = {name: own for name, own in recorded(strength, found).items() if len(own) > 1}
    plot(lines, strength, "GAUC", out / f"dose_{strength}.svg")


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["build", "train", "report"])
    parser.add_argument("--strength", choices=list(DOSES), default="intent_drift")
    parser.add_argument("--doses", type=float, nargs="*", help="default: the four of docs/results/frozen.md")
    parser.add_argument("--arms", default="amen,no NIF,din")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--share", default="1/1", help="which part of how many, such as 1/2")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    doses = given.doses or DOSES[given.strength]
    confs = [recipe_of(given.strength, dose) for dose in doses]
    if given.step == "build":
        for conf in confs:
            build(conf, [flows])
    elif given.step == "train":
        part, parts = (int(n) for n in given.share.split("/"))
        train(confs, given.arms.split(","), given.seeds, (part, parts))
    else:
        report(given.strength, doses, given.out)


if __name__ == "__main__":
    main()
