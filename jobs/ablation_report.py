"""The table and the picture of an ablation, and their place in MLflow."""

import math
from collections.abc import Sequence
from pathlib import Path

import mlflow
import pandas as pd

from feature_store.recipe import Recipe
from jobs.ablation import FULL, METRICS, Apart, Prepared, Row, compare, finished
from models.registry import Registry
from models.report_plots import differences

TABLE, PLOT = "ablation.md", "ablation.svg"


def collect(recipe: Recipe, prepared: Prepared, registry: Registry | None = None) -> list[Row]:
    """Compare the finished arms; write `ablation.md` and `ablation.svg` beside them, and log both and every mean to MLflow."""
    rows = compare(finished(prepared))
    files = [prepared.folder / TABLE, prepared.folder / PLOT]
    files[0].write_text(table(rows))
    apart = [(row.arm, own.value, own.low, own.high) for row in rows if row.arm != FULL and (own := row.apart["gauc"])]
    files[1].write_text(differences(apart, f"GAUC of {FULL} minus the arm"))
    registry = registry or Registry()
    mlflow.set_tracking_uri(registry.uri)
    tags = {"recipe": recipe.name, "ablation": prepared.folder.name}
    with mlflow.start_run(experiment_id=registry.experiment(recipe.name), run_name=f"{recipe.name}-{FULL}-ablation", tags=tags):
        mlflow.log_metrics({f"{row.arm.replace('=', '')}.{name}": value for row in rows for name, value in row.means.items()
                            if math.isfinite(value)})
        mlflow.log_table(pd.DataFrame([{"arm": row.arm, "seeds": row.seeds, **row.means} for row in rows]), "ablation.json")
        for file in files:
            mlflow.log_artifact(str(file))
    return rows


def table(rows: Sequence[Row]) -> str:
    """The arms as a Markdown table: means, and the full model minus the arm with its interval."""
    heads = ["arm", "seeds", *METRICS, *(f"{FULL} minus arm, {name}" for name in METRICS[:3]), "detectable (GAUC)"]
    lines = [heads, ["---"] * len(heads)]
    for row in rows:
        apart = [*(_apart(row.apart[m]) for m in METRICS[:3]), f"{row.apart['gauc'].detectable:.4f}"]
        apart = [""] * len(apart) if row.arm == FULL else apart
        lines.append([row.arm, str(row.seeds), *(f"{row.means[name]:.4f}" for name in METRICS), *apart])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def _apart(found: Apart) -> str:
    if math.isnan(found.value):
        return "no seed in common"
    return f"{found.value:+.4f}" + ("" if math.isnan(found.low) else f" [{found.low:+.4f}, {found.high:+.4f}]")


def written(prepared: Prepared) -> tuple[Path, Path]:
    """Where `collect` wrote the table and the picture."""
    return prepared.folder / TABLE, prepared.folder / PLOT
