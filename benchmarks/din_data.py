"""The same random shop in two layouts: pages with their history once (ours), and a row a shown item (FuxiCTR's).

A page has 50 tokens, 12 scene visits and 25 shown items; an item's category follows from its id, popular items are drawn more
often, and an item whose category is in the history is likelier clicked, so that there is something to learn.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.batch import BUCKET_ROWS, TABLES
from feature_store.encoded_set import EncodedFile, EncodedSet, file_digest
from feature_store.encoding import ENCODED_PAGES

TOKENS, VISITS, SHOWN = 50, 12, 25
SMALL = {"category": 500, "scene": 12, "action": 12, "scenario": 10}
PAGES_A_GROUP = 1_000
FILES = 4
ITEMS_FILE, USERS_FILE, ROWS_FILE = "items.parquet", "histories.parquet", "impressions.parquet"

_SCATTER = 7_368_787
"""A prime: times it, modulo the number of items, ranks of popularity lie anywhere among the indexes."""
_TABLE_OF = {feature: table for table, features in TABLES.items() for feature in features}
_LENGTH = {"moveline": TOKENS, "visit": VISITS, "candidate": SHOWN}


def category_of(item: np.ndarray) -> np.ndarray:
    """Index of the category of each item; 0 has none."""
    return np.where(item == 0, 0, 1 + item % (SMALL["category"] - 1))


@dataclass
class Drawn:
    """Some pages: a matrix [pages, length] a feature, [pages] for what is of the page, and clicked [pages, SHOWN]."""

    columns: dict[str, np.ndarray]
    pages: int


def drawn(pages: int, items: int, seed: int) -> Drawn:
    """Random pages of a shop of `items` items."""
    draw = np.random.default_rng(seed)
    rows = {"item": items, **SMALL, **BUCKET_ROWS}
    found: dict[str, np.ndarray] = {}
    for feature, table in _TABLE_OF.items():
        length = _LENGTH.get(feature.partition("_")[0], 1)
        skew = 3 if table == "item" else 1
        drawn_rank = (draw.random((pages, length)) ** skew * (rows[table] - 1)).astype(np.int64)
        # An index follows from the day an id was first seen and from the id, not from how popular it is.
        found[feature] = 1 + (drawn_rank * _SCATTER % (rows[table] - 1) if table == "item" else drawn_rank)
    for side in ("moveline", "candidate", "trigger"):
        found[f"{side}_category"] = category_of(found[f"{side}_item"])
    found["candidate_position"] = np.tile(np.arange(SHOWN), (pages, 1))
    known = (found["candidate_category"][:, :, None] == found["moveline_category"][:, None, :]).any(2)
    found["clicked"] = (draw.random((pages, SHOWN)) < np.where(known, 0.5, 0.1)).astype(np.float32)
    return Drawn(found, pages)


def write_pages(folder: Path, pages: int, items: int, seed: int = 0) -> EncodedSet:
    """An encoded set of such pages, in our layout, with its manifest."""
    folder.mkdir(parents=True)
    files = []
    for number in range(FILES):
        own = drawn(pages // FILES, items, seed * FILES + number)
        path = folder / f"part-{number}.parquet"
        pq.write_table(_encoded(own, number * own.pages, seed), path, row_group_size=PAGES_A_GROUP, compression="zstd")
        files.append(EncodedFile(path.name, path.stat().st_size, own.pages, own.pages * SHOWN, file_digest(path)))
    made = EncodedSet(str(folder), folder.name, "pages", f"random-{seed}", tuple(files), {"item": items, **SMALL, **BUCKET_ROWS},
                      "random", "pages", 0, ("2026-05-01",))
    made.save()
    return made


def _encoded(own: Drawn, first: int, seed: int) -> pa.Table:
    draw, row = np.random.default_rng(seed), np.arange(first, first + own.pages)
    known = {**own.columns, "row": row, "user": row // 3, "cut_time": row, "n_items": np.full(own.pages, SHOWN),
             "weight": np.ones((own.pages, SHOWN), np.float32), "page_id": row, "user_id": row // 3}
    arrays = []
    for field in ENCODED_PAGES:
        length = VISITS if field.name.startswith("log_") else SHOWN
        values = known[field.name] if field.name in known else draw.random((own.pages, length), np.float32)
        arrays.append(_column(field, values))
    return pa.table(arrays, schema=ENCODED_PAGES)


def _column(field: pa.Field, values: np.ndarray) -> pa.Array:
    if not pa.types.is_list(field.type):
        flat = values.reshape(-1)
        return pa.array(flat.astype(str)) if pa.types.is_string(field.type) else pa.array(flat, field.type)
    offsets = np.arange(0, values.size + 1, values.shape[1], dtype=np.int32)
    return pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1), field.type.value_type))


def write_impressions(folder: Path, pages: int, items: int, seed: int = 0) -> int:
    """The same pages as FuxiCTR's DIN of long histories reads them; the number of rows.

    A row a shown item, with the numbers of its item and of its page; the history (item indexes) once a page and the attributes of
    every item in files of their own: its loader puts them together row by row.
    """
    folder.mkdir(parents=True)
    parts = [drawn(pages // FILES, items, seed * FILES + number).columns for number in range(FILES)]
    whole = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    count = len(whole["hour"])
    single = ("scene", "scenario", "hour", "trigger_item", "trigger_category")
    rows = {"clicked": whole["clicked"].astype(np.int64).reshape(-1), "item_index": whole["candidate_item"].reshape(-1),
            "user_index": np.repeat(np.arange(count), SHOWN), "seq_len": np.full(count * SHOWN, TOKENS),
            "position": whole["candidate_position"].reshape(-1),
            **{name: np.repeat(whole[name].reshape(-1), SHOWN) for name in single}}
    pq.write_table(pa.table(rows), folder / ROWS_FILE)
    history = pa.FixedSizeListArray.from_arrays(pa.array(whole["moveline_item"].reshape(-1)), TOKENS)
    pq.write_table(pa.table({"full_item_seq": history}), folder / USERS_FILE)
    index = np.arange(items)
    pq.write_table(pa.table({"item_index": index, "item_id": index, "cate_id": category_of(index)}), folder / ITEMS_FILE)
    return count * SHOWN
