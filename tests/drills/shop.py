"""A small shop that logs one folder of Parquet files a day, and the command on it."""

import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.home import lake_root
from feature_store.tables import Lake
from jobs import cli

ONE, TWO = "2026-03-02", "2026-03-03"
TABLES = ("events", "exposures", "movelines", "visits", "vocabulary", "pages", "pairs", "flows")
Run = Callable[..., tuple[int, str]]
Recovery = Callable[[str], AbstractContextManager[None]]


def noon(ds: str) -> datetime:
    return datetime.fromisoformat(f"{ds} 12:00:00").replace(tzinfo=UTC)


def events(ds: str, users: int = 10, each: int = 12) -> pa.Table:
    """Every user clicks `each` items of twenty."""
    rows = [(f"{ds}-{user}-{n}", f"u{user}", noon(ds) + timedelta(seconds=20 * n + user), f"i{(3 * user + n) % 20}")
            for user in range(users) for n in range(each)]
    return pa.table(dict(zip(("id", "user", "time", "item"), map(list, zip(*rows, strict=True)), strict=True)))


def shown(ds: str, users: int = 10) -> pa.Table:
    """Every user sees one page of five items, after half of the clicks; the first is clicked."""
    rows = [{"page": f"{ds}-{user}", "user": f"u{user}", "time": noon(ds) + timedelta(seconds=121 + user),
             "item": f"i{(user + n) % 20}", "place": n, "click": n == 0} for user in range(users) for n in range(5)]
    return pa.Table.from_pylist(rows)


def file(data: Path, name: str, ds: str) -> Path:
    """Where a day of a log lies."""
    return data / name / f"ds={ds}" / "part.parquet"


def log_day(data: Path, ds: str, users: int = 10, each: int = 12) -> None:
    """Write a day."""
    for name, table in (("events", events(ds, users, each)), ("shown", shown(ds, users))):
        file(data, name, ds).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table, file(data, name, ds))


def recipe(folder: Path, optional: bool = False) -> Path:
    """The shop's recipe; `optional`: a day may have no folder."""
    ddl = {"events": "id string, user string, time timestamp, item string",
           "shown": "page string, user string, time timestamp, item string, place long, click boolean"}
    inputs = {n: {"path": f"{n}/ds={{ds}}", **({"optional": True, "columns": ddl[n]} if optional else {})} for n in ddl}
    clicks = {"event_id": "id", "user_id": "user", "event_time": "time", "scene": "'home'", "action": "'click'", "item_id": "item"}
    pages = {"page_id": "page", "user_id": "user", "shown_time": "time", "scene": "'list'", "item_id": "item", "position": "place",
             "clicked": "click"}
    path = folder / "shop.yaml"
    path.write_text(yaml.safe_dump({"name": "shop", "source": {
        "inputs": inputs, "events": [{"from": "events", "columns": clicks}], "exposures": [{"from": "shown", "columns": pages}]}}))
    return path


def lake() -> Lake:
    """The lake of the shop in the present state folder."""
    return Lake(lake_root("shop"))


def wait_until(seen: Callable[[], bool], process: subprocess.Popen) -> None:
    """Wait for something that a process does, and that must come before its end."""
    limit = time.monotonic() + 300
    while not seen():
        assert process.poll() is None and time.monotonic() < limit, "it never came to that"
        time.sleep(0.05)


def digests(ds: str) -> dict[str, str]:
    """Digest of a day of every table."""
    return {name: lake().table(name).digests([ds])[ds] for name in TABLES}


def runner(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the command in this process, on the session of the tests; gives its exit code and what it said."""
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["moveline", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err and err.count("\n") <= 1, err
        return int(ended.value.code or 0), out + err

    return run


def copied(source: Path, target: Path) -> Path:
    """A copy of a folder."""
    shutil.copytree(source, target)
    return target
