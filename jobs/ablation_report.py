"""The table and the picture of an ablation, and their place in MLflow."""

from collections.abc import Sequence
from pathlib import Path

from feature_store.recipe import Recipe
from jobs.ablation import FULL, METRICS, Prepared, Row, compare, finished
from jobs.comparison import keep, markdown
from models.registry import Registry
from models.report_plots import differences

TABLE, PLOT = "ablation.md", "ablation.svg"


def collect(recipe: Recipe, prepared: Prepared, registry: Registry | None = None) -> list[Row]:
    """Compare the finished arms; write `ablation.md` and `ablation.svg` beside them, and log both and every mean to MLflow."""
    rows = compare(finished(prepared))
    files = written(prepared)
    files[0].write_text(table(rows))
    apart = [(row.arm, row.apart["gauc"]) for row in rows if row.arm != FULL]
    files[1].write_text(differences([(arm, own.value, own.low, own.high) for arm, own in apart], f"GAUC of {FULL} minus the arm"))
    keep(recipe, f"{recipe.name}-{FULL}-ablation", {"ablation": prepared.folder.name},
         {f"{row.arm.replace('=', '')}.{name}": value for row in rows for name, value in row.means.items()},
         [{"arm": row.arm, "seeds": row.seeds, **row.means} for row in rows], files, registry)
    return rows


def table(rows: Sequence[Row]) -> str:
    """The arms as a Markdown table: means, and the full model minus the arm with its interval."""
    heads = ["arm", "seeds", *METRICS, *(f"{FULL} minus arm, {name}" for name in METRICS[:3]), "detectable (GAUC)"]
    lines = []
    for row in rows:
        apart = [*(str(row.apart[m]) for m in METRICS[:3]), f"{row.apart['gauc'].detectable:.4f}"]
        apart = [""] * len(apart) if row.arm == FULL else apart
        lines.append([row.arm, str(row.seeds), *(f"{row.means[name]:.4f}" for name in METRICS), *apart])
    return markdown(heads, lines)


def written(prepared: Prepared) -> tuple[Path, Path]:
    """Where `collect` wrote the table and the picture."""
    return prepared.folder / TABLE, prepared.folder / PLOT
