"""Movelines and visits from events, and the last 50 tokens of pages at their cut: our jobs beside naive Spark, DuckDB and Polars.

    PYTHONPATH=. python benchmarks/moveline_build.py [--events 300000,1000000] [--rounds 2]

The log is synthetic and has the columns of the `events` contract: users with 60 events on average (log-normal, sigma 0.7) in
sessions, 2 % known late by up to an hour, 1 % replaced later, equal times; a page for every tenth event. Every way reads Parquet,
writes Parquet (zstd), and all must write the same rows. Ours makes pages from the movelines it wrote, as the jobs do; the rivals
from events. Prints a table a size and, on the last line, JSON.
"""

import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.side_by_side import arguments, compare, line, table
from feature_store.contracts import EVENTS, MOVELINES, TIME, VISITS

EVENTS_A_USER = 60
EVENTS_A_PAGE = 10
FILES = 4
ITEMS, ITEMS_A_CATEGORY = 100_000, 128
SCENES = ("home", "search", "category", "detail", "cart", "campaign", "profile")
ACTIONS = ("view", "click", "search", "visit", "favourite", "cart", "buy")
START_S = 1_772_409_600
CONTEXT = ("moveline_time", "moveline_scene", "moveline_action", "moveline_item", "moveline_category")
COLUMNS = {
    "movelines": [name for name in MOVELINES.columns if name != "ds"],
    "visits": [name for name in VISITS.columns if name != "ds"],
    "pages": ["page_id", "user_id", "cut_time", *CONTEXT],
}
"""What is compared, by stage."""
WAYS = {"ours": ("moveline_spark.py", "ours"), "naive": ("moveline_spark.py", "naive"),
        "duckdb": ("rivals/moveline_duckdb.py",), "polars": ("rivals/moveline_polars.py",)}


def events(count: int, draw: np.random.Generator) -> pa.Table:
    """About `count` rows of the `events` contract, sorted by user and time."""
    users = max(1, count // EVENTS_A_USER)
    sizes = np.ceil(EVENTS_A_USER * draw.lognormal(-0.7**2 / 2, 0.7, users)).astype(np.int64)
    rows, first = int(sizes.sum()), np.cumsum(sizes) - sizes
    user = np.repeat(np.arange(users), sizes)
    at = START_S + walked(sizes, 43_200, draw).astype(np.int64)
    late = np.where(draw.random(rows) < 0.02, draw.integers(0, 3_600, rows), 0)
    replaced = draw.random(rows) < 0.01
    item = (ITEMS * draw.random(rows) ** 3).astype(np.int64)
    none = draw.random(rows) < 0.1
    moved = np.maximum.accumulate(np.where((draw.random(rows) < 0.3) | (np.arange(rows) == first[user]), np.arange(rows), 0))
    made = {
        "event_id": names("e", np.arange(rows)), "user_id": names("u", user), "event_time": times(at),
        "seq": pa.array(draw.integers(0, 3, rows)), "available_time": times(at + late),
        "scene": chosen(SCENES, draw.integers(0, len(SCENES), rows)[moved]), "action": chosen(ACTIONS, draw.integers(0, 7, rows)),
        "item_id": names("i", item, none), "category_id": names("c", item // ITEMS_A_CATEGORY, none),
        "dwell_ms": pa.array(draw.integers(0, 60_000, rows)), "op": chosen(("upsert",), np.zeros(rows, np.int64)),
        "replaced_time": times(at + late + draw.integers(1, 7_200, rows), ~replaced), "ds": pa.array(["2026-03-02"] * rows)}
    return pa.table([made.get(f.name, pa.nulls(rows, f.type)) for f in EVENTS.schema], schema=EVENTS.schema)


def walked(sizes: np.ndarray, latest: int, draw: np.random.Generator) -> np.ndarray:
    """[sum of sizes] seconds since midnight of every event, by user and time; each user has `sizes` and begins before `latest`."""
    rows, first, user = sizes.sum(), np.cumsum(sizes) - sizes, np.repeat(np.arange(len(sizes)), sizes)
    gaps = np.where(draw.random(rows) < 0.03, draw.exponential(3_600, rows), draw.exponential(20, rows))
    passed = np.cumsum(gaps)
    return draw.integers(0, latest, len(sizes))[user] + passed - passed[first[user]]


def pages(known: pa.Table, draw: np.random.Generator) -> pa.Table:
    """A page for every tenth event, shown up to a minute after it: page_id, user_id, cut_time."""
    chosen = np.sort(draw.choice(known.num_rows, known.num_rows // EVENTS_A_PAGE, replace=False))
    after = draw.integers(0, 60, len(chosen)) * 1_000_000
    cut = known["event_time"].cast(pa.int64()).to_numpy()[chosen] + after
    return pa.table({"page_id": names("p", np.arange(len(chosen))), "user_id": known["user_id"].take(pa.array(chosen)),
                     "cut_time": pa.array(cut).cast(TIME)})


def names(letter: str, number: np.ndarray, none: np.ndarray | None = None) -> pa.Array:
    text = pc.utf8_lpad(pa.array(number, mask=none).cast(pa.string()), 9, "0")
    return pc.binary_join_element_wise(letter, text, "")


def times(seconds: np.ndarray, none: np.ndarray | None = None) -> pa.Array:
    return pa.array(seconds * 1_000_000, mask=none).cast(TIME)


def chosen(words: tuple[str, ...], places: np.ndarray) -> pa.Array:
    return pa.array(words).take(pa.array(places))


def save(folder: Path, known: pa.Table, draw: np.random.Generator) -> None:
    """Events, and pages for them, their rows mixed, some files each."""
    for name, rows in {"events": known, "cuts": pages(known, draw)}.items():
        (folder / name).mkdir(parents=True)
        mixed = rows.take(pa.array(draw.permutation(len(rows))))
        step = -(-len(mixed) // FILES)
        for part in range(FILES):
            pq.write_table(mixed.slice(part * step, step), folder / name / f"part-{part}.parquet", compression="zstd")


def drawn(folder: Path, size: int) -> int:
    """Files of about `size` events and of pages for them; how many events. No row stays in memory while the ways run."""
    draw = np.random.default_rng(0)
    known = events(size, draw)
    save(folder, known, draw)
    return len(known)


def main() -> None:
    """Measure and print."""
    asked = arguments(__doc__, "events", "300000,1000000", WAYS, COLUMNS)
    runs = []
    for size in map(int, asked.events.split(",")):
        with tempfile.TemporaryDirectory() as name:
            rows = drawn(Path(name) / "in", size)
            found = compare(WAYS, asked, Path(name), COLUMNS, {})
        print(f"\n{rows:,} events, {rows // EVENTS_A_PAGE:,} pages: all ways wrote the same rows")
        table(found)
        runs.append({"events": rows, "ways": found})
    line("moveline_build", runs)


if __name__ == "__main__":
    main()
