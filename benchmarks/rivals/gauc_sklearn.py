"""`benchmarks/gauc.py` with scikit-learn: a plain loop over users."""

import numpy as np
import polars as pl
from sklearn.metrics import roc_auc_score

from benchmarks.timed import arguments, timed


def gauc(rows: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean of the users' AUC weighted by their rows; users with one class only are left out. rows : a user's clicks and scores."""
    top = bottom = 0.0
    for clicked, score in rows:
        if 0 < clicked.sum() < len(clicked):
            top += len(clicked) * roc_auc_score(clicked, score)
            bottom += len(clicked)
    return top / bottom


def main() -> None:
    """Write the value."""
    asked = arguments()
    table = pl.read_parquet(asked.input).sort("user")
    starts = np.flatnonzero(np.diff(table["user"].to_numpy())) + 1
    parts = zip(*(np.split(table[name].to_numpy(), starts) for name in ("clicked", "score")), strict=True)
    rows = list(parts)
    timed({"gauc": lambda path: path.write_text(repr(float(gauc(rows))))}, asked)


if __name__ == "__main__":
    main()
