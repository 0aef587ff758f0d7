"""The digest by which a benchmark says that two ways wrote the same."""

from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from benchmarks import side_by_side

ROWS = [{"user": "a", "n": 1, "items": ["x", "y"], "at": 5}, {"user": "b", "n": None, "items": [], "at": 6},
        {"user": "c", "n": 3, "items": ["y", None], "at": 7}]
SCHEMA = pa.schema([("user", pa.string()), ("n", pa.int64()), ("items", pa.list_(pa.string())), ("at", pa.timestamp("us", "UTC"))])
Digest = Callable[..., str]


@pytest.fixture
def digest(tmp_path: Path) -> Digest:
    def of(rows: list[dict[str, object]], schema: pa.Schema = SCHEMA) -> str:
        pq.write_table(pa.Table.from_pylist(rows, schema), tmp_path / "rows.parquet", row_group_size=2)
        return side_by_side.digest(tmp_path / "rows.parquet", SCHEMA.names)

    return of


def test_order_of_rows_and_widths_of_types_do_not_count(digest: Digest) -> None:
    wide = pa.schema([("user", pa.large_string()), ("n", pa.int32()), ("items", pa.large_list(pa.large_string())),
                      ("at", pa.timestamp("ms", "UTC"))])
    times = [{**row, "at": row["at"] * 1_000} for row in ROWS]

    assert digest(ROWS) == digest(ROWS[::-1])
    assert digest(times) == digest(ROWS, wide)


@pytest.mark.parametrize("changed", [
    {"n": 2}, {"n": None}, {"user": "b"}, {"items": ["y", "x"]}, {"items": ["x"]}, {"items": ["x", "y", None]}, {"at": 6}])
def test_every_value_counts_and_so_does_the_order_in_a_list(digest: Digest, changed: dict[str, object]) -> None:
    assert digest([{**ROWS[0], **changed}, *ROWS[1:]]) != digest(ROWS)


def test_values_that_move_between_rows_and_rows_that_are_there_twice_count(digest: Digest) -> None:
    exchanged = [{**ROWS[0], "n": 3}, ROWS[1], {**ROWS[2], "n": 1}]

    assert digest(exchanged) != digest(ROWS)
    assert digest([*ROWS, ROWS[0]]) != digest(ROWS)


def test_a_row_of_lists_can_count_as_a_row_an_element(tmp_path: Path) -> None:
    pq.write_table(pa.table({"page": ["p", "q"], "item": [["x", "y"], []]}), tmp_path / "lists.parquet")
    pq.write_table(pa.table({"page": ["p", "p"], "item": ["y", "x"]}), tmp_path / "rows.parquet")
    found = [side_by_side.digest(tmp_path / f"{name}.parquet", ["page", "item"], ["item"]) for name in ("lists", "rows")]

    assert found[0] == found[1]
    assert found[0].startswith("2 rows")
