"""Pages and pairs to numbers, against plain Python."""

import math
from statistics import mean, pstdev

import numpy as np
import pyarrow as pa
import pytest

from feature_store.contracts import PAGES, PAIRS
from feature_store.encoding import ENCODED_PAGES, encode_pages, encode_pairs
from feature_store.errors import TableError
from tests.feature_store.encoded_pages import NAMES, NOON, random_pages, vocabulary

WORDS = vocabulary()


def index(field: str, value: str | None) -> int:
    return int(WORDS.encode(field, pa.array([value], pa.string()))[0])


def oracle(page: dict, row: int, user: int) -> dict:
    cut = page["cut_time"]

    def age(time) -> int:  # type: ignore[no-untyped-def]
        return min(63, int(2 * math.log2(1 + (cut - time).total_seconds())))

    logs = [math.log(p) if p else None for p in page["price"]]
    known = [x for x in logs if x is not None]
    spread = pstdev(known) if known else 0.0
    out = {
        "page_id": page["page_id"],
        "user_id": page["user_id"],
        "row": row,
        "user": user,
        "cut_time": int(cut.timestamp() * 1_000_000),
        "n_items": len(page["item_id"]),
        "moveline_item": [index("item", v) for v in page["moveline_item"]],
        "moveline_age": [age(t) for t in page["moveline_time"]],
        "visit_age": [age(t) for t in page["visit_time"]],
        "candidate_item": [index("item", v) for v in page["item_id"]],
        "candidate_category": [index("category", v) for v in page["category_id"]],
        "candidate_position": page["position"],
        "trigger_item": index("item", page["trigger_item_id"]),
        "trigger_category": index("category", page["trigger_category_id"]),
        "scene": index("scene", page["scene"]),
        "scenario": index("scenario", page["scenario"]),
        "hour": cut.hour,
        "price_score": [0.0 if x is None or spread < 1e-6 else (x - mean(known)) / spread for x in logs],
        "price_known": [float(x is not None) for x in logs],
        "seen_before": [float(v in [m for m in page["moveline_item"] if m]) for v in page["item_id"]],
        "clicked": [float(v) for v in page["clicked"]],
        "weight": [float(v) for v in page["viewed"]],
        "log_dwell": [math.log1p(v / 1000) for v in page["visit_dwell_ms"]],
    }
    for field in ("category", "scene", "action"):
        out[f"moveline_{field}"] = [index(field, v) for v in page[f"moveline_{field}"]]
    for field in ("scene", "category"):
        out[f"visit_{field}"] = [index(field, v) for v in page[f"visit_{field}"]]
    for name in ("shown", "clicked", "carted"):
        out[f"log_{name}"] = [math.log1p(v) for v in page[f"visit_{name}"]]
    return out


def test_encoding_equals_plain_python() -> None:
    pages = random_pages(300, seed=1)
    rows = pages.to_pylist()
    users = {user: n for n, user in enumerate(dict.fromkeys(r["user_id"] for r in rows))}
    for n, (found, page) in enumerate(zip(encode_pages(pages, WORDS, 7, 100).to_pylist(), rows, strict=True)):
        expected = oracle(page, 7 + n, 100 + users[page["user_id"]])
        assert set(found) == set(expected) == set(ENCODED_PAGES.names)
        for name, value in expected.items():
            if isinstance(value, (list, float)):
                np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=f"{name} of page {n}")
            else:
                assert found[name] == value, name


def test_a_slice_of_pages_encodes_as_the_whole_does() -> None:
    pages = random_pages(60, seed=2)
    whole, part = encode_pages(pages, WORDS), encode_pages(pages.slice(20, 25), WORDS, first_row=20)
    names = [n for n in ENCODED_PAGES.names if n != "user"]
    assert part.select(names).equals(whole.slice(20, 25).select(names).combine_chunks())


def test_no_pages_encode_to_no_rows() -> None:
    assert encode_pages(PAGES.schema.empty_table(), WORDS).num_rows == 0


def test_pages_without_labels_are_encoded_for_serving() -> None:
    encoded = encode_pages(random_pages(5).drop_columns(["clicked", "viewed", "ordered", "label_time", "ds"]), WORDS)
    assert set(encoded["clicked"].combine_chunks().flatten().to_pylist()) == {0.0}
    assert set(encoded["weight"].combine_chunks().flatten().to_pylist()) == {1.0}


def test_a_missing_column_is_named() -> None:
    with pytest.raises(TableError, match="encoding needs the columns price"):
        encode_pages(random_pages(3).drop_columns(["price"]), WORDS)


def test_lists_that_belong_together_must_have_one_length() -> None:
    pages = random_pages(3)
    place = pages.column_names.index("clicked")
    with pytest.raises(TableError, match="column clicked"):
        encode_pages(pages.set_column(place, "clicked", pa.array([[True] * 99] * 3)), WORDS)


def test_pairs_become_one_row_each() -> None:
    page = {
        "page_id": "p",
        "user_id": "u",
        "shown_time": NOON,
        "label_time": NOON,
        "scenario": "feed",
        "n_items": 3,
        "n_clicked": 1,
        "co_click": 0,
        "co_non_click": 1,
        "mono_click": 2,
        "ds": "2026-01-02",
    }
    name = NAMES["category"][0]
    known, bucket = index("category", name), index("category", "?")
    pairs = pa.Table.from_pylist(
        [
            page | {"left_item": ["i0"], "right_item": ["i1"], "left_category": [None], "right_category": [name],
                    "kind": ["mono_click"], "weight": [2.0]},
            page | {"left_item": [], "right_item": [], "left_category": [], "right_category": [], "kind": [], "weight": []},
            page
            | {"left_item": ["i2", "i0"], "right_item": ["i3", "i3"], "left_category": [name, name], "right_category": ["?", None],
               "kind": ["co_click", "co_non_click"], "weight": [1.0, 1.5]},
        ],
        schema=PAIRS.schema,
    )
    assert encode_pairs(pairs, WORDS, first_page=10).to_pydict() == {
        "left": [5, 7, 5],
        "right": [6, 8, 8],
        "left_category": [0, known, known],
        "right_category": [known, bucket, 0],
        "kind": [2, 0, 1],
        "weight": [2.0, 1.0, 1.5],
        "page": [10, 12, 12],
    }
