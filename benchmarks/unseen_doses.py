"""ccn beside its rivals in scenarios never seen, as the share of irrelevant triggers in the simulated shop grows.

    python benchmarks/unseen_doses.py build   simulate and build the tables of every dose
    python benchmarks/unseen_doses.py train   every arm, scenario and seed on every dose
    python benchmarks/unseen_doses.py report  the table, and the plot docs/pictures/unseen_triggers.svg

Every dose is `conf/simulated_unseen.yaml` with `irrelevant_triggers` changed, at the values that docs/results/frozen.md fixed
beforehand. `--users` and `--days` make a smaller shop, which is not the frozen one. What is finished is skipped.
"""

import argparse
import time
from datetime import timedelta
from pathlib import Path

import matplotlib
import yaml

from feature_store.home import home, lake_root, raw_root
from feature_store.recipe import load_recipe
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs import ingest, movelines, pages, simulate, visits, vocabulary
from jobs.unseen import FULL, chosen, prepare, run, unfinished
from jobs.unseen_report import Row, about, compare, pooled, table

matplotlib.use("svg")
from matplotlib import pyplot

BASE = Path(__file__).resolve().parent.parent / "conf" / "simulated_unseen.yaml"
DOSES = (0.0, 0.3, 0.6, 0.9)
METRIC = "page_gauc"


def recipe_of(dose: float, users: int, days: int) -> Path:
    """The recipe of a dose, written below the state folder; with all users and days, it differs from the frozen one in the dose."""
    frozen = load_recipe(BASE)
    settings = {**(frozen.simulator or {}), "irrelevant_triggers": dose, "users": users}
    name = f"triggers_{round(100 * dose)}_{users}_{days}"
    path = home() / "recipes" / f"{name}.yaml"
    first = frozen.days.first if frozen.days else None
    content = {"extends": str(BASE), "name": name, "simulator": settings}
    content |= {"days": {"first": first, "last": first + timedelta(days - 1)}} if first else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def build(conf: Path) -> None:
    """The log of a recipe and its pages."""
    recipe, started = load_recipe(conf), time.perf_counter()
    lake, raw = Lake(lake_root(recipe.name)), raw_root(recipe.name)
    days = [str(recipe.days.first + timedelta(n)) for n in range((recipe.days.last - recipe.days.first).days + 1)]
    if lake.table("pages").exists() and lake.table("pages").days() == days:
        return
    spark = spark_session("moveline-doses")
    try:
        if not simulate.is_current(recipe, raw):
            simulate.simulate(spark, recipe, raw)
        for ds in days:
            ingest.build(spark, recipe, lake, ds, str(raw), str(conf))
            for job in (movelines, visits, vocabulary):
                job.build(spark, recipe, lake, ds)
            pages.build(spark, recipe, lake, ds, recipe_path=conf)
            print(f"{recipe.name} {ds}: {time.perf_counter() - started:.0f} s", flush=True)
        prepare(conf, spark=spark)
    finally:
        spark.stop()


def train(confs: list[Path], scenarios: list[str], arms: list[str], seeds: int) -> None:
    """Every run of every dose, seed after seed."""
    for seed in range(1, seeds + 1):
        for conf in confs:
            recipe, prepared = load_recipe(conf), prepare(conf)
            for todo in unfinished(prepared, *chosen(recipe, prepared, scenarios, arms, 3), seed):
                found = run(conf, prepared, *todo)
                print(f"{recipe.name}: without {todo[0]}, {todo[1]}, seed {todo[2]}: {found['seconds']:.0f} s", flush=True)


def report(confs: dict[float, Path], out: Path) -> None:
    """A table a dose, and the lead of ccn by dose as a plot."""
    found: dict[float, list[Row]] = {}
    for dose, conf in confs.items():
        together = pooled(prepare(conf))
        found[dose] = compare(together)
        print(f"\nirrelevant_triggers = {dose:g}\n\n{table(found[dose])}\n{about(together)}")
    figure, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    for arm in dict.fromkeys(row.arm for rows in found.values() for row in rows if row.arm not in (FULL, "position", "popularity")):
        leads = {dose: row.apart[METRIC] for dose, rows in found.items() for row in rows if row.arm == arm}
        errors = [[own.value - own.low for own in leads.values()], [own.high - own.value for own in leads.values()]]
        lead = [own.value for own in leads.values()]
        axes.errorbar(list(leads), lead, yerr=errors, marker="o", capsize=3, label=f"{FULL} - {arm}")
    axes.axhline(0, color="black", linewidth=0.8)
    axes.set(xlabel="irrelevant_triggers", ylabel="difference of page GAUC in unseen scenarios, 95 % interval")
    axes.legend(frameon=False)
    figure.savefig(out / "unseen_triggers.svg")


def main() -> None:
    """Do one step."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("step", choices=["build", "train", "report"])
    parser.add_argument("--doses", type=float, nargs="*", default=DOSES)
    parser.add_argument("--users", type=int, default=12_000)
    parser.add_argument("--days", type=int, default=8)
    parser.add_argument("--scenarios", default="", help="separated by commas; empty: the three with most test pages")
    parser.add_argument("--arms", default="", help="separated by commas; empty: ccn, its rivals and its controls")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("docs/pictures"))
    given = parser.parse_args()
    confs = {dose: recipe_of(dose, given.users, given.days) for dose in given.doses}
    if given.step == "build":
        for conf in confs.values():
            build(conf)
    elif given.step == "train":
        names = [[name for name in text.split(",") if name] for text in (given.scenarios, given.arms)]
        train(list(confs.values()), *names, given.seeds)
    else:
        report(confs, given.out)


if __name__ == "__main__":
    main()
