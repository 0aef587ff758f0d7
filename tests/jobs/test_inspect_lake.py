"""What was refused, and why: counted file by file, with a raw row of each reason."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs import inspect_lake


class Rejects:
    """A lake whose only table is `rejects`, in files as the real one has them."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def table(self, name: str) -> "Rejects":
        return self

    def exists(self) -> bool:
        return True

    def files(self, days: list[str] | None) -> list[str]:
        return sorted(str(file) for file in self.root.rglob("*.parquet") if not days or file.parts[-3].removeprefix("ds=") in days)

    def write(self, day: str, origin: str, rows: list[tuple[str, str, str]], part: int = 0) -> None:
        folder = self.root / f"ds={day}" / f"origin={origin}"
        folder.mkdir(parents=True, exist_ok=True)
        columns = [pa.array(column) for column in zip(*rows, strict=True)]
        pq.write_table(pa.table(columns, ["reason", "row_key", "row"]), folder / f"{part}.parquet", row_group_size=4)


def test_rejects_are_counted_by_reason_with_the_first_raw_row_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inspect_lake, "_ROWS_AT_ONCE", 3)
    lake = Rejects(tmp_path)
    lake.write("2026-03-01", "events", [("bad_time", f"k{n}", f'{{"n": {n}}}') for n in range(3, 9)])
    lake.write("2026-03-01", "events", [("bad_time", f"k{n}", f'{{"n": {n}}}') for n in range(3)]
               + [("null_user_id", "", "raw " * 1_000)] * 10, part=1)
    lake.write("2026-03-02", "input_a%20b", [("malformed", "1", "half a li")])
    found = inspect_lake.reject_reasons(lake, None)  # type: ignore[arg-type]
    assert [tuple(row.values())[:5] for row in found] == [
        ("2026-03-01", "events", "null_user_id", 10, ""), ("2026-03-01", "events", "bad_time", 9, "k0"),
        ("2026-03-02", "input_a b", "malformed", 1, "1")]
    assert [row["for example"] for row in found[1:]] == ['{"n": 0}', "half a li"]
    assert found[0]["for example"] == ("raw " * 100) + "..."
    assert inspect_lake.reject_reasons(lake, ["2026-03-02"]) == found[2:]  # type: ignore[arg-type]
