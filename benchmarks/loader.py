"""Pages a second of the loader against a raw `pyarrow.dataset` scan of the same files, in the same run.

    python benchmarks/loader.py [--rows 400000] [--rounds 3]

Synthetic pages with three ragged columns of mean length 50. `loader` reads every row group through petastorm and makes
KeyedJaggedTensors of the three columns; `shuffled` also permutes the pages within buffers of row groups, as training does.
Prints a table and, on the last line, JSON.
"""

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from feature_store.collate import jagged
from feature_store.loader import GROUPS_SHUFFLED
from feature_store.row_groups import audit, read_tables

COLUMNS = ("moveline_item", "moveline_category", "moveline_scene")
MEAN_LENGTH = 50
ROWS_A_GROUP = 2_000
FILES = 4


def write(folder: Path, rows: int, seed: int = 0) -> list[str]:
    """Files of encoded pages with ragged lists of 1..99 values."""
    draw = np.random.default_rng(seed)
    files = []
    for number in range(FILES):
        own = rows // FILES
        offsets = np.concatenate([[0], np.cumsum(draw.integers(1, 2 * MEAN_LENGTH, own))]).astype(np.int32)
        lists = [pa.ListArray.from_arrays(offsets, pa.array(draw.integers(1, high, offsets[-1]))) for high in (50_000, 500, 10)]
        files.append(str(folder / f"part-{number}.parquet"))
        pq.write_table(pa.table(dict(zip(COLUMNS, lists, strict=True))), files[-1], row_group_size=ROWS_A_GROUP, compression="zstd")
    return files


def raw(files: list[str], workers: int) -> int:
    """Scan everything with pyarrow alone."""
    return sum(batch.num_rows for batch in pads.dataset(files, format="parquet").to_batches())


def loader(files: list[str], workers: int) -> int:
    """Row groups through petastorm, each as a KeyedJaggedTensor."""
    return sum(jagged(table, COLUMNS).stride() for table in read_tables(files, COLUMNS, workers=workers))


def shuffled(files: list[str], workers: int) -> int:
    """The same with the pages of several row groups permuted."""
    draw, found, buffer = np.random.default_rng(0), 0, []
    for table in read_tables(files, COLUMNS, workers=workers, seed=1):
        buffer.append(table)
        if len(buffer) == GROUPS_SHUFFLED:
            whole = pa.concat_tables(buffer).combine_chunks()
            found += jagged(whole.take(pa.array(draw.permutation(len(whole)))), COLUMNS).stride()
            buffer = []
    return found + sum(jagged(table, COLUMNS).stride() for table in buffer)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    workers = os.cpu_count() or 1
    ways: tuple[Callable[[list[str], int], int], ...] = (raw, loader, shuffled)
    speeds: dict[str, list[float]] = {way.__name__: [] for way in ways}
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), given.rows)
        rows = given.rows // FILES * FILES
        raw(files, workers)  # once, so that every way finds the files in the page cache
        for _ in range(given.rounds):  # interleaved: what else runs on the machine disturbs all of them
            for way in ways:
                started = time.perf_counter()
                audit(way(files, workers), rows, way.__name__)
                speeds[way.__name__].append(rows / (time.perf_counter() - started))
    best = {name: statistics.median(found) for name, found in speeds.items()}
    for name, speed in best.items():
        print(f"{name:10s} {speed:12,.0f} pages/s   {speed / best['raw']:.2f} of raw")
    print(json.dumps({"rows": rows, "workers": workers, "rounds": given.rounds, **{k: round(v) for k, v in best.items()},
                      "ratio": round(best["loader"] / best["raw"], 3), "ratio_shuffled": round(best["shuffled"] / best["raw"], 3)}))


if __name__ == "__main__":
    main()
