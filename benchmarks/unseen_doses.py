"""ccn beside its rivals in scenarios never seen, as the share of irrelevant triggers in the simulated shop grows.

    PYTHONPATH=. python benchmarks/unseen_doses.py build   simulate and build the tables of every dose
    PYTHONPATH=. python benchmarks/unseen_doses.py train   every arm, scenario and seed on every dose
    PYTHONPATH=. python benchmarks/unseen_doses.py report  the table, and the plot docs/pictures/unseen_triggers.svg

Every dose is `conf/simulated_unseen.yaml` with `irrelevant_triggers` changed, at the values that docs/results/frozen.md fixed
beforehand. `--users` and `--days` make a smaller shop, which is not the frozen one. What is finished is skipped. Differences on the
frozen shop are remembered in `dose_irrelevant_triggers.json`, so that doses may be run on different days.
"""

import argparse
from datetime import timedelta
from pathlib import Path

from benchmarks.doses import build, by_name, plot, recorded, write_recipe
from feature_store.recipe import load_recipe
from jobs.at_once import each
from jobs.unseen import FULL, Prepared, chosen, prepare, run, unfinished
from jobs.unseen_report import BASELINES, Row, about, compare, pooled, table

BASE = Path(__file__).resolve().parent.parent / "conf" / "simulated_unseen.yaml"
DOSES = (0.0, 0.3, 0.6, 0.9)
USERS, DAYS = 12_000, 8
"""Of the frozen shop."""
METRIC = "page_gauc"


def recipe_of(dose: float, users: int, days: int) -> Path:
    """The recipe of a dose; with all users and days, it differs from the frozen one in the dose."""
    frozen = load_recipe(BASE)
    sections = {"simulator": {**(frozen.simulator or {}), "irrelevant_triggers": dose, "users": users}}
    if frozen.days:
        sections["days"] = {"first": frozen.days.first, "last": frozen.days.first + timedelta(days - 1)}
    return write_recipe(BASE, f"triggers_{round(100 * dose)}_{users}_{days}", sections)


def train(confs: list[Path], scenarios: list[str], arms: list[str], seeds: int, at_once: int) -> None:
    """Every run of every dose, seed after seed; some at once."""
    shops = {conf: prepare(conf) for conf in confs}
    for seed in range(1, seeds + 1):
        calls = [(conf, prepared, *todo) for conf, prepared in shops.items()
                 for todo in unfinished(prepared, *chosen(load_recipe(conf), prepared, scenarios, arms, 3), seed)]
        for found in each(one, calls, at_once):
            print(found, flush=True)


def one(conf: Path, prepared: Prepared, scenario: str, arm: str, seed: int) -> str:
    """Do a run and say what was done."""
    found = run(conf, prepared, scenario, arm, seed)
    return f"{conf.stem}: without {scenario}, {arm}, seed {seed}: {found['seconds']:.0f} s"


def report(confs: dict[float, Path], out: Path, remember: bool) -> None:
    """A table a dose, and the lead of ccn by dose as a plot."""
    found: dict[float, list[Row]] = {}
    for dose, conf in confs.items():
        together = pooled(prepare(conf))
        found[dose] = compare(together)
        print(f"\nirrelevant_triggers = {dose:g}\n\n{table(found[dose])}\n{about(together)}")
    leads = {dose: {f"{FULL} - {row.arm}": row.apart[METRIC] for row in rows if row.arm not in (FULL, *BASELINES)}
             for dose, rows in found.items()}
    lines = recorded("irrelevant_triggers", leads) if remember else by_name(leads)
    plot(lines, "irrelevant_triggers", "page GAUC in unseen scenarios", out / "unseen_triggers.svg")


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["build", "train", "report"])
    parser.add_argument("--doses", type=float, nargs="*", default=DOSES)
    parser.add_argument("--users", type=int, default=USERS)
    parser.add_argument("--days", type=int, default=DAYS)
    parser.add_argument("--scenarios", default="", help="separated by commas; empty: the three with most test pages")
    parser.add_argument("--arms", default="", help="separated by commas; empty: ccn, its rivals and its controls")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--at-once", type=int, default=1, help="runs at a time, each with its share of the cores")
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    confs = {dose: recipe_of(dose, given.users, given.days) for dose in given.doses}
    if given.step == "build":
        for conf in confs.values():
            build(conf)
            prepare(conf)
    elif given.step == "train":
        names = [[name for name in text.split(",") if name] for text in (given.scenarios, given.arms)]
        train(list(confs.values()), *names, given.seeds, given.at_once)
    else:
        report(confs, given.out, (given.users, given.days) == (USERS, DAYS))


if __name__ == "__main__":
    main()
