"""Bad input through the command: one line that names the thing and the fix, or a reject with a reason; never a stack trace."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from feature_store.home import lake_root
from feature_store.tables import Lake
from jobs import cli

DAY = "2026-03-02"
NOON = datetime(2026, 3, 2, 12, tzinfo=UTC)
EVENTS = {"event_id": "id", "user_id": "user", "event_time": "time", "scene": "'home'", "action": "'view'", "item_id": "item"}
PAGES = {"page_id": "page", "user_id": "user", "shown_time": "time", "scene": "'list'", "item_id": "item", "position": "place"}
Run = Callable[..., tuple[int, str, str]]


def recipe(folder: Path, **more: Any) -> str:
    """A recipe file of events and exposures; `more` replaces sections."""
    inputs = {"log": {"path": "log.parquet"}, "shown": {"path": "shown.parquet"}}
    source = {"inputs": inputs, "events": [{"from": "log", "columns": EVENTS}], "exposures": [{"from": "shown", "columns": PAGES}]}
    path = folder / "shop.yaml"
    path.write_text(json.dumps({"name": "shop", "source": {**source, **more.pop("source", {})}, **more}))
    return str(path)


def events(count: int = 40) -> pa.Table:
    return pa.table({"id": [f"e{n}" for n in range(count)], "user": [f"u{n % 3}" for n in range(count)],
                     "time": [NOON + timedelta(seconds=n) for n in range(count)], "item": [f"i{n % 5}" for n in range(count)]})


def shown(pages: dict[str, int]) -> pa.Table:
    rows = [{"page": p, "user": "u1", "time": NOON, "item": f"i{n}", "place": n} for p, size in pages.items() for n in range(size)]
    return pa.Table.from_pylist(rows)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    pq.write_table(events(), folder / "log.parquet")
    pq.write_table(shown({"p": 5}), folder / "shown.parquet")
    return folder


@pytest.fixture
def moveline(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run the command in this process, on the session of the tests; its exit code, output and errors."""
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["moveline", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return int(ended.value.code or 0), out, err

    return run


def assert_one_line(done: tuple[int, str, str], *says: str, code: int = 1) -> None:
    ended, out, err = done
    assert ended == code and err.startswith("error: ") and err.count("\n") == 1 and "Traceback" not in out + err, done
    assert "failed unexpectedly" not in err, err
    assert all(text in err for text in says), err


def test_a_raw_file_that_is_missing_corrupt_or_of_another_type_is_named(moveline: Run, data: Path, tmp_path: Path) -> None:
    def daily() -> tuple[int, str, str]:
        return moveline("daily", "--conf", conf, "--data", str(data), "--ds", DAY)

    conf = recipe(tmp_path)
    whole = (data / "log.parquet").read_bytes()
    (data / "log.parquet").unlink()
    assert_one_line(daily(), "input 'log': no data at", "log.parquet", "correct --data or source.inputs.log.path")
    (data / "log.parquet").write_bytes(whole[:len(whole) // 2])
    assert_one_line(daily(), "log.parquet is corrupt or not of the configured format", "replace it")
    pq.write_table(events().drop_columns(["item"]), data / "log.parquet")
    assert_one_line(daily(), "shop.yaml: source.events[0].columns.item_id: 'item'", "the columns are id, user, time", code=2)
    pq.write_table(events().set_column(2, "time", pa.array(["noon"] * 40)), data / "log.parquet")
    assert_one_line(daily(), "events, ds=2026-03-02: 40 of 40 rows", "bad_event_time 40", f"rejects --conf {conf} --ds {DAY}")
    assert_one_line(moveline("pages", "--conf", conf, "--ds", "2026-3-2"), "--ds 2026-3-2: ", "a day is written 2026-05-01", code=2)


def test_rows_too_large_are_rejected_with_a_reason_and_the_rest_is_built(moveline: Run, data: Path, tmp_path: Path) -> None:
    big = events(1).set_column(3, "item", pa.array(["x" * 1_000_000])).set_column(0, "id", pa.array(["big"]))
    pq.write_table(pa.concat_tables([events(), big]), data / "log.parquet")
    pq.write_table(shown({"p": 5, "huge": 10_000}), data / "shown.parquet")
    conf = recipe(tmp_path, quality={"max_reject_share": 1.0})
    code, out, err = moveline("ingest", "--conf", conf, "--data", str(data), "--ds", DAY)
    assert (code, err) == (0, "") and "reject.item_id_too_long 1" in out
    code, out, err = moveline("pages", "--conf", conf, "--ds", DAY)
    assert (code, err) == (0, "") and "reject.page_too_long 10,000" in out
    lake = Lake(lake_root("shop"))
    assert [lake.table(name).day(DAY).rows for name in ("events", "exposures", "pages")] == [40, 10_005, 1]  # type: ignore[union-attr]
    code, out, _ = moveline("tables", "rejects", "--conf", conf)
    assert code == 0 and "item_id_too_long" in out and "page_too_long" in out


def test_a_recipe_or_a_name_that_is_wrong_is_named(moveline: Run, tmp_path: Path) -> None:
    done = moveline("daily", "--conf", recipe(tmp_path, qualty={}), "--ds", DAY)
    assert_one_line(done, "shop.yaml: qualty: Extra inputs", code=2)
    conf = recipe(tmp_path)
    assert_one_line(moveline("train_model", "dien", "--conf", conf), "no model is called 'dien'", "din")
    assert_one_line(moveline("train_model", "din", "--conf", conf), "names no model 'din' under `models`")
    assert_one_line(moveline("daily", "--conf", conf, "--ds", "2999-01-01"), "--ds 2999-01-01: ", "lies in the future", code=2)
    code, out, _ = moveline("models", "--conf", conf)
    assert code == 0 and "no model of shop is registered yet" in out


def test_a_day_without_rows_says_which_days_there_are(moveline: Run, data: Path, tmp_path: Path) -> None:
    code, out, err = moveline("ingest", "--conf", recipe(tmp_path), "--data", str(data), "--ds", "2026-03-05")
    assert (code, err) == (0, "") and "no rows of this day; the input holds days 2026-03-02 to 2026-03-02" in out
