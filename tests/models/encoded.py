"""Random encoded sets on disk, as training reads them."""

from pathlib import Path
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.batch import BUCKET_ROWS, TABLES
from feature_store.encoded_set import EncodedFile, EncodedSet, file_digest
from feature_store.encoding import (
    ENCODED_PAGES,
    ENCODED_PAIRS,
    SHOWN_DENSE,
    SHOWN_FEATURES,
    TOKEN_FEATURES,
    VISIT_DENSE,
    VISIT_FEATURES,
)

SIZES = {"item": 200, "category": 12, "scene": 8, "action": 8, "scenario": 6, **BUCKET_ROWS}
TABLE_OF = {feature: table for table, features in TABLES.items() for feature in features}


def _pages(count: int, seed: int) -> pa.Table:
    """Items are clicked when their category is one of the moveline's."""
    draw = np.random.default_rng(seed)
    columns: dict[str, list] = {name: [] for name in ENCODED_PAGES.names}
    for page in range(count):
        sizes = {TOKEN_FEATURES: draw.integers(0, 12), VISIT_FEATURES: draw.integers(0, 4), SHOWN_FEATURES: draw.integers(3, 9)}
        for features, size in sizes.items():
            for name in features:
                columns[name].append(draw.integers(1, min(SIZES[TABLE_OF[name]], 64), size))
        shown = int(sizes[SHOWN_FEATURES])
        columns["candidate_position"][-1] = np.arange(shown)
        known = np.isin(columns["candidate_category"][-1], columns["moveline_category"][-1])
        clicked = draw.random(shown) < np.where(known, 0.6, 0.1)
        columns["clicked"].append(clicked.astype(np.float32))
        columns["weight"].append(np.ones(shown, np.float32))
        for name in SHOWN_DENSE:
            columns[name].append(draw.normal(size=shown).astype(np.float32))
        for name in VISIT_DENSE:
            columns[name].append(draw.random(int(sizes[VISIT_FEATURES])).astype(np.float32))
        for name in ("trigger_item", "trigger_category", "scene", "scenario"):
            columns[name].append(int(draw.integers(0, SIZES[TABLE_OF[name]])))
        single = {"page_id": f"p{page}", "user_id": f"u{page // 3}", "row": page, "user": page // 3, "cut_time": page,
                  "n_items": shown, "hour": page % 24}
        for name, value in single.items():
            columns[name].append(value)
    return pa.table([pa.array(columns[f.name], f.type) for f in ENCODED_PAGES], schema=ENCODED_PAGES)


def _pairs(count: int, seed: int) -> pa.Table:
    """Items of the same parity are clicked together."""
    draw = np.random.default_rng(seed)
    left, right = draw.integers(17, 200, count), draw.integers(17, 200, count)
    kind = np.where((left % 2 == right % 2) ^ (draw.random(count) < 0.1), 0, 2)
    weight = (draw.random(count) + 0.5).astype(np.float32)
    categories = [pa.array(draw.integers(0, 12, count)) for _ in range(2)]
    columns = [pa.array(left), pa.array(right), *categories, pa.array(kind), pa.array(weight), pa.array(np.arange(count) // 4)]
    return pa.table(columns, schema=ENCODED_PAIRS)


def encoded_set(folder: Path, kind: Literal["pages", "pairs"], count: int, seed: int = 0, row_group: int = 50) -> EncodedSet:
    """Write `count` random pages or pairs as two lopsided files and a manifest."""
    folder.mkdir(parents=True)
    table = _pages(count, seed) if kind == "pages" else _pairs(count, seed)
    files = []
    for name, part in (("part-0.parquet", table.slice(0, count // 4)), ("part-1.parquet", table.slice(count // 4))):
        pq.write_table(part, folder / name, row_group_size=row_group)
        items = sum(part["n_items"].to_pylist()) if kind == "pages" else len(part)
        files.append(EncodedFile(name, (folder / name).stat().st_size, len(part), items, file_digest(folder / name)))
    made = EncodedSet(str(folder), folder.name, kind, f"random-{seed}", tuple(files), SIZES, "words", kind, 0, ("2026-05-01",))
    made.save()
    return made
