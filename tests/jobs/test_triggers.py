from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import triggers

PAGES = [  # source, trigger, items shown, clicked
    ("clicked", "a", ["a", "b"], [True, False]), ("clicked", "a", ["b", "a"], [True, False]), ("clicked", "c", ["a"], [None]),
    ("entrance", "b", ["b", "c", "d"], [None, True, False]), (None, None, ["a"], [True]), (None, None, [], []),
    (None, "d", ["d"], [True]),
]


class Lake:
    """A lake whose only table is `pages`, of some files."""

    def __init__(self, files: list[str]) -> None:
        self.found = files

    def table(self, name: str) -> "Lake":
        return self

    def exists(self) -> bool:
        return bool(self.found)

    def files(self, days: list[str] | None) -> list[str]:
        return self.found


def test_triggers_are_counted_by_source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(triggers, "_ROWS_AT_ONCE", 2)
    kinds = [pa.string(), pa.string(), pa.list_(pa.string()), pa.list_(pa.bool_())]
    columns = [pa.array(column, kind) for column, kind in zip(zip(*PAGES, strict=True), kinds, strict=True)]
    names = ["trigger_source", "trigger_item_id", "item_id", "clicked"]
    for part, file in ((slice(0, 3), "a"), (slice(3, 7), "b")):
        pq.write_table(pa.table([c[part] for c in columns], names), tmp_path / file)
    found = triggers.trigger_shares(Lake([str(tmp_path / "a"), str(tmp_path / "b")]))  # type: ignore[arg-type]
    assert [list(row.values()) for row in found] == [
        ["(source not given)", 1, pytest.approx(1 / 7), 1.0, 1.0], ["clicked", 3, pytest.approx(3 / 7), pytest.approx(2 / 3),
                                                                    pytest.approx(1 / 3)],
        ["entrance", 1, pytest.approx(1 / 7), 1.0, 0.0], ["(no trigger)", 2, pytest.approx(2 / 7), None, None]]
    assert triggers.trigger_shares(Lake([])) == []  # type: ignore[arg-type]
