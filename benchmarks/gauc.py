"""GAUC of scored items: `models.metrics.gauc` beside a plain loop over users with scikit-learn.

    PYTHONPATH=. python benchmarks/gauc.py [--rows 1000000] [--users 100000] [--rounds 5]

Scores have two decimals, so that many are equal; the values must agree to 1e-9. Reading the rows does not count, nor does cutting
them by user, which the rival gets for nothing. Prints a table and, on the last line, JSON.
"""

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.side_by_side import line, run, table

WAYS = {"ours": "gauc_ours.py", "scikit-learn": "rivals/gauc_sklearn.py"}
CLOSE = 1e-9


def rows(count: int, users: int) -> pa.Table:
    """user, clicked (0 or 1), score; one row an item, in random order."""
    draw = np.random.default_rng(0)
    score = draw.beta(2, 8, count).round(2)
    clicked = (draw.random(count) < score).astype(np.int64)
    return pa.table({"user": draw.integers(0, users, count), "clicked": clicked, "score": score})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--users", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=5, help="of ours; the loop runs once")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder, found = Path(name), {}
        pq.write_table(rows(asked.rows, asked.users), folder / "rows.parquet")
        for way, script in WAYS.items():
            (folder / way).mkdir()
            found[way] = run(script, "--input", folder / "rows.parquet", "--output", folder / way,
                             "--rounds", asked.rounds if way == "ours" else 1)
        values = {way: float((folder / way / "gauc").read_text()) for way in WAYS}
    apart = abs(values["ours"] - values["scikit-learn"])
    if not apart <= CLOSE:
        sys.exit(f"the ways disagree by {apart}: {values}")
    print(f"\n{asked.rows:,} rows, {asked.users:,} users: {values['ours']:.12f}, apart by {apart:.1e}")
    table(found)
    line("gauc", [{"rows": asked.rows, "users": asked.users, "apart": apart, "ways": found}])


if __name__ == "__main__":
    main()
