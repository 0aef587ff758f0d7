"""Pages a second of the loader against a raw `pyarrow.dataset` scan of the same files and two rivals, in the same run.

    PYTHONPATH=. python benchmarks/loader.py [--rows 400000] [--rounds 3] [--epochs 5]

Synthetic pages with three ragged columns of mean length 50. `loader` reads every row group through petastorm and makes
KeyedJaggedTensors of the three columns; `shuffled` also permutes the pages within buffers of row groups, as training does.

`batches` is all that training does: whole encoded pages (50 tokens, 8 visits, 25 shown items; 31 columns), read by four shards,
shuffled, cut into batches of 4,096 shown items, every index checked, all 15 features and the dense columns as tensors. `raw_pages`
scans the same columns.

The rivals read the three columns: `padded` through petastorm's own reader and a transform that pads, `plain` by torch's DataLoader.
Then `loader` and `batches` run some epochs, each in a process of its own, whose memory is looked at after every epoch. Prints a
table and, on the last line, JSON; the exit code is 1 when the loader is below its share of a raw scan.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from benchmarks import loader_rivals
from benchmarks.side_by_side import answer
from feature_store.batch import BUCKET_ROWS, VOCABULARY_FIELDS
from feature_store.collate import PAGE_COLUMNS, jagged
from feature_store.encoding import ENCODED_PAGES, VISIT_DENSE
from feature_store.loader import GROUPS_SHUFFLED, PageStream
from feature_store.row_groups import audit, read_tables

Way = Callable[[list[str], int], int]
COLUMNS = ("moveline_item", "moveline_category", "moveline_scene")
MEAN_LENGTH = 50
ROWS_A_GROUP = 8_000
"""As many bytes as `PAGES_A_GROUP` encoded pages, with their 31 columns, have."""
PAGES_A_GROUP = 2_000
FILES = 4
LEAST = 0.85
"""The share of a raw scan that the loader must reach."""


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


def write_pages(folder: Path, rows: int, seed: int = 0) -> list[str]:
    """Files of `ENCODED_PAGES` with random indexes: about 50 tokens, 8 visits and 25 shown items a page."""
    draw, files, own = np.random.default_rng(seed), [], rows // FILES
    for number in range(FILES):
        count = {"moveline": draw.integers(1, 100, own), "visit": draw.integers(1, 16, own), "shown": draw.integers(10, 41, own)}
        arrays = [_column(field, draw, count, number * own) for field in ENCODED_PAGES]
        files.append(str(folder / f"pages-{number}.parquet"))
        pq.write_table(pa.table(arrays, schema=ENCODED_PAGES), files[-1], row_group_size=PAGES_A_GROUP, compression="zstd")
    return files


def _column(field: pa.Field, draw: np.random.Generator, count: dict[str, np.ndarray], first: int) -> pa.Array:
    rows = len(count["shown"])
    known = {"row": np.arange(first, first + rows), "n_items": count["shown"], "user": np.arange(first, first + rows) // 3}
    if not pa.types.is_list(field.type):
        values = known.get(field.name, draw.integers(0, 8, rows))
        return pa.array(values.astype(str)) if pa.types.is_string(field.type) else pa.array(values, field.type)
    visit = field.name.startswith("visit") or field.name in VISIT_DENSE
    kind = "moveline" if field.name.startswith("moveline") else "visit" if visit else "shown"
    offsets = np.concatenate([[0], np.cumsum(count[kind])]).astype(np.int32)
    high = 20_000 if field.name.endswith("_item") else 8
    values = draw.integers(0, high, offsets[-1]) if field.type.value_type == pa.int64() else draw.random(offsets[-1])
    return pa.ListArray.from_arrays(offsets, pa.array(values, field.type.value_type))


def raw_pages(files: list[str], workers: int) -> int:
    """Scan the columns of a batch with pyarrow alone."""
    return sum(batch.num_rows for batch in pads.dataset(files, format="parquet").to_batches(columns=PAGE_COLUMNS))


def batches(files: list[str], workers: int) -> int:
    """Batches for training."""
    tables = {**dict.fromkeys(VOCABULARY_FIELDS, 20_000), **BUCKET_ROWS}
    stream = PageStream(files, items_a_batch=1_024, shards=4, rows=tables)
    return sum(int((batch.row >= 0).sum()) for batch in stream.epoch(0))


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


def padded(files: list[str], workers: int) -> int:
    """What a user of petastorm alone writes."""
    return loader_rivals.padded(files, workers, COLUMNS, 2 * MEAN_LENGTH - 1)


def plain(files: list[str], workers: int) -> int:
    """What a user of torch alone writes."""
    return loader_rivals.plain(files, COLUMNS)


def held(way: Way, files: list[str], workers: int, epochs: int) -> list[float]:
    """Megabytes of this process after every epoch."""
    found = []
    for _ in range(epochs):
        way(files, workers)
        found.append(round(psutil.Process().memory_info().rss / 1e6, 1))
    return found


def memory(way: Way, files: list[str], epochs: int) -> list[float]:
    """`held` in a new process."""
    command = [sys.executable, str(Path(__file__).resolve()), "--held", way.__name__, "--epochs", str(epochs), "--files", *files]
    return answer(command)


@dataclass
class Rates:
    """Rows a second of every round, and rows a CPU second (of all threads)."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def add(self, way: Way, files: list[str], workers: int, rows: int) -> None:
        """Do it once."""
        started, before = time.perf_counter(), time.process_time()
        audit(way(files, workers), rows // FILES * FILES, way.__name__)
        self.wall.append(rows / (time.perf_counter() - started))
        self.cpu.append(rows / (time.process_time() - before))

    def ratios(self, other: "Rates") -> list[float]:
        """Of the medians: by the clock, and in CPU."""
        pairs = ((self.wall, other.wall), (self.cpu, other.cpu))
        return [round(statistics.median(own) / statistics.median(its), 3) for own, its in pairs]


def main() -> None:
    """Measure and print; with `--held`, be the process whose memory counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=400_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=5, help="after which memory is looked at")
    parser.add_argument("--held", help=argparse.SUPPRESS)
    parser.add_argument("--files", nargs="+", help=argparse.SUPPRESS)
    given = parser.parse_args()
    workers = os.cpu_count() or 1
    if given.held:
        print(json.dumps(held({"loader": loader, "batches": batches}[given.held], given.files, workers, given.epochs)))
        return
    scans: dict[Way, Way] = {**dict.fromkeys((raw, loader, shuffled, padded, plain), raw),
                             **dict.fromkeys((raw_pages, batches), raw_pages)}
    rates = {way: Rates() for way in scans}
    with tempfile.TemporaryDirectory() as folder:
        lists, pages = write(Path(folder), given.rows), write_pages(Path(folder), given.rows // 4)
        raw(lists, workers), raw_pages(pages, workers)  # once, so that every way finds the files in the page cache
        for _ in range(given.rounds):  # interleaved: what else runs on the machine disturbs all of them
            for way, own in rates.items():
                own.add(way, *((pages, workers, given.rows // 4) if way in (raw_pages, batches) else (lists, workers, given.rows)))
        epochs = {way.__name__: memory(way, files, given.epochs) for way, files in ((loader, lists), (batches, pages))}
    of_raw = {way.__name__: own.ratios(rates[scans[way]]) for way, own in rates.items()}
    times = {rival.__name__: rates[loader].ratios(rates[rival]) for rival in (padded, plain)}
    print(f"{'':10s}{'pages/s':>12s}{'of its raw scan':>17s}{'pages/CPU s':>14s}{'of its raw scan':>17s}")
    for way, own in rates.items():
        by_clock, in_cpu = of_raw[way.__name__]
        print(f"{way.__name__:10s}{statistics.median(own.wall):12,.0f}{by_clock:17.2f}{statistics.median(own.cpu):14,.0f}{in_cpu:17.2f}")
    for name, (by_clock, in_cpu) in times.items():
        print(f"the loader is {by_clock:.1f} times as fast as {name}; {in_cpu:.1f} times in CPU")
    for name, megabytes in epochs.items():
        print(f"{name}: MB after epochs 1 to {given.epochs}: {', '.join(map(str, megabytes))}")
    print(json.dumps({"rows": given.rows, "workers": workers, "rounds": given.rounds, "load": os.getloadavg()[0], "ratios": of_raw,
                      "times": times, "mb": epochs, **{way.__name__: vars(own) for way, own in rates.items()}}))
    if of_raw[loader.__name__][0] < LEAST:
        sys.exit(f"the loader reaches {of_raw[loader.__name__][0]:.2f} of the raw scan; it should be {LEAST}")


if __name__ == "__main__":
    main()
