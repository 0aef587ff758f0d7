"""Pairs of items shown on one page: our job beside a naive Spark explode-join and DuckDB's self-join.

    PYTHONPATH=. python benchmarks/pairs.py [--pages 5000,100000] [--rounds 2] [--stages counts,pairs]

Synthetic pages of 12 items in the middle, 17 on average and 283 at most (log-normal, sigma 0.8; a page has some 250 pairs), 5 %
of them clicked and 95 % viewed. Two tasks, each from Parquet to Parquet:

`counts`: how many pairs of each kind every page has; ours from the numbers of viewed and of clicked items, without a pair.
`pairs`: all pairs, none left out; ours as lists a page (its cap above the longest page), the rivals' a row a pair.

All ways must find the same. Prints a table a size and, on the last line, JSON.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.side_by_side import arguments, compare, line, table
from feature_store.contracts import PAIR_KINDS, TIME
from jobs.pieces import offsets_of
from jobs.ragged import counted

FILES = 4
LONGEST = 283
ITEMS, ITEMS_A_CATEGORY = 100_000, 128
COLUMNS = {"counts": ["page_id", *PAIR_KINDS], "pairs": ["page_id", "left_item", "right_item", "kind"]}
"""What is compared, by stage."""
LISTS = {"pairs": ("left_item", "right_item", "kind")}
"""Ours has a row a page and these as lists; a pair counts as a row."""
WAYS = {"ours": ("pairs_spark.py", "ours"), "naive": ("pairs_spark.py", "naive"), "duckdb": ("rivals/pairs_duckdb.py",)}


def pages(lengths: np.ndarray, draw: np.random.Generator) -> pa.Table:
    """Pages of these lengths, with the columns of the `pages` contract that pairs need; an item is on a page once."""
    rows = int(lengths.sum())
    # Different steps from a random start: no item twice on a page, without a loop over pages.
    step = np.repeat(draw.integers(1, ITEMS // max(int(lengths.max()), 1), len(lengths)), lengths)
    item = (np.repeat(draw.integers(0, ITEMS, len(lengths)), lengths) + counted(lengths) * step) % ITEMS
    offsets, day = pa.array(offsets_of(lengths).astype(np.int32)), pa.scalar(1_772_409_600_000_000, TIME)
    text = {"page_id": "p", "user_id": "u", "scenario": "feed", "scene": "feed"}
    flat = {"item_id": pa.array(item.astype(str)), "category_id": pa.array((item // ITEMS_A_CATEGORY).astype(str)),
            "viewed": pa.array(draw.random(rows) < 0.95), "clicked": pa.array(draw.random(rows) < 0.05)}
    made = {name: pa.ListArray.from_arrays(offsets, values) for name, values in flat.items()}
    made |= {name: pa.array([f"{letter}{n}" for n in range(len(lengths))]) for name, letter in text.items() if len(letter) == 1}
    made |= {name: pa.array([word] * len(lengths)) for name, word in text.items() if len(word) > 1}
    made |= {name: pa.array([day] * len(lengths)) for name in ("shown_time", "label_time")}
    return pa.table({**made, "ds": pa.array(["2026-03-02"] * len(lengths))})


def write(folder: Path, lengths: np.ndarray, draw: np.random.Generator) -> None:
    """Some files of pages."""
    (folder / "pages").mkdir(parents=True)
    for part, own in enumerate(np.array_split(lengths, FILES)):
        made = pages(own, draw)
        names = pa.array([f"{part}-{name}" for name in made["page_id"].to_pylist()])
        pq.write_table(made.set_column(made.schema.get_field_index("page_id"), "page_id", names),
                       folder / "pages" / f"part-{part}.parquet", compression="zstd")


def lengths_of(count: int, draw: np.random.Generator) -> np.ndarray:
    """[count] items of every page; the longest page is among them."""
    found = np.clip(draw.lognormal(np.log(12), 0.8, count), 2, LONGEST).astype(np.int64)
    found[0] = LONGEST
    return found


def main() -> None:
    """Measure and print."""
    asked = arguments(__doc__, "pages", "5000,100000", WAYS, COLUMNS)
    runs = []
    for size in map(int, asked.pages.split(",")):
        draw = np.random.default_rng(0)
        lengths = lengths_of(size, draw)
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            write(folder / "in", lengths, draw)
            found = compare(WAYS, asked, folder, COLUMNS, LISTS)
        print(f"\n{size:,} pages, {int((lengths * (lengths - 1) // 2).sum()):,} pairs of shown items: all ways found the same")
        table(found)
        runs.append({"pages": size, "ways": found})
    line("pairs", runs)


if __name__ == "__main__":
    main()
