"""`din` beside its baselines, over several seeds: the tables of docs/results/din.md.

    python benchmarks/results_din.py --conf conf/simulated.yaml
    python benchmarks/results_din.py --conf conf/trivago.yaml --cut at_click

Reads the tables that `moveline daily` built; every seed trains on the same encoded rows, with the settings of the recipe.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from feature_store.home import lake_root, raw_root
from feature_store.recipe import Recipe, load_recipe
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs.encode import encode_training
from jobs.evaluate import evaluate
from jobs.train import train

TABLES = {"at_show": "pages", "at_click": "pages_at_click"}
METRICS = ("ndcg_5", "gauc", "page_gauc", "auc", "log_loss", "calibration_error")
RIVALS = ("recent_position", "position", "recent", "popularity", "base_rate")
AGAINST = ("ndcg_5", "gauc", "log_loss")


def seeded(recipe: Recipe, seed: int) -> Recipe:
    """The recipe with another seed for din."""
    return recipe.with_model("din", {**recipe.models["din"], "seed": seed})


def runs(recipe: Recipe, table: str, seeds: list[int]) -> list[dict[str, Any]]:
    """The evaluation of din for each seed, on the newest window of the recipe's tables."""
    lake = Lake(lake_root(recipe.name))
    spark = spark_session("moveline-results")
    sets, vocabulary = encode_training(spark, recipe, lake, lake.table(table).days()[-1], table)
    spark.stop()
    truth = raw_root(recipe.name) / "truth" if recipe.simulator is not None else None
    found = []
    with tempfile.TemporaryDirectory() as folder:
        words = Path(folder) / "vocabulary.parquet"
        vocabulary.save(words)
        for seed in seeds:
            made = train(seeded(recipe, seed), "din", sets["train"], sets["validate"], Path(folder) / str(seed), vocabulary=words)
            found.append(evaluate(made.folder, sets["train"], sets["test"], truth))
    return found


def rows(found: list[dict[str, Any]]) -> dict[str, Any]:
    """Means over the seeds: value and interval (resampled users) of each metric, differences, and the truth where it is known."""
    def mean(*path: str) -> dict[str, float]:
        cells = []
        for result in found:
            cell: Any = result
            for key in path:
                cell = cell[key]
            cells.append(cell)
        return {k: statistics.fmean(c[k] for c in cells) for k in ("value", "low", "high", "error")} | {
            "spread": statistics.stdev([c["value"] for c in cells]) if len(cells) > 1 else 0.0}

    out: dict[str, Any] = {"seeds": len(found), **found[0]["rows"]}
    for who in ("model", *RIVALS):
        out[who] = {m: mean("metrics", who, m) for m in METRICS if m in found[0]["metrics"][who]}
    out["differences"] = {r: {m: mean("differences", r, m) for m in AGAINST if m in found[0]["differences"][r]} for r in RIVALS}
    if found[0].get("truth"):
        out["truth"] = {k: statistics.fmean(r["truth"][k] for r in found) for k in found[0]["truth"]}
    return out


def shown(result: dict[str, Any]) -> str:
    """Two markdown tables: metrics, and what din gains over each baseline."""
    lines = ["| | " + " | ".join(METRICS) + " |", "| --- " * (len(METRICS) + 1) + "|"]
    for who in ("model", *RIVALS):
        cells = [f"{result[who][m]['value']:.4f}" if m in result[who] else "" for m in METRICS]
        lines.append(f"| {'din' if who == 'model' else who} | " + " | ".join(cells) + " |")
    head = f"| din minus | {' | '.join(AGAINST)} | smallest detectable ({', '.join(AGAINST)}) |"
    lines += ["", head, "| --- " * 5 + "|"]
    for who, own in result["differences"].items():
        cells = [f"{own[m]['value']:+.4f} [{own[m]['low']:+.4f}, {own[m]['high']:+.4f}]" if m in own else "" for m in AGAINST]
        least = ", ".join(f"{2.8 * own[m]['error']:.4f}" if m in own else "-" for m in AGAINST)
        lines.append(f"| {who} | " + " | ".join(cells) + f" | {least} |")
    return "\n".join(lines)


def main() -> None:
    """Print the tables and one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--conf", default="conf/simulated.yaml")
    parser.add_argument("--cut", choices=sorted(TABLES), default="at_show")
    parser.add_argument("--seeds", type=int, default=3)
    asked = parser.parse_args()
    result = rows(runs(load_recipe(asked.conf), TABLES[asked.cut], list(range(1, asked.seeds + 1))))
    sys.stdout.write(f"{asked.conf} {asked.cut}: {result['pages']} pages, {result['users']} users, {result['seeds']} seeds\n\n")
    sys.stdout.write(shown(result) + "\n\n" + json.dumps({"conf": asked.conf, "cut": asked.cut, **result}) + "\n")


if __name__ == "__main__":
    main()
