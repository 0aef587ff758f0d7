"""What every job that builds one day of one table shares: skip when current, write, check the row accounting, say what happened."""

import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal

from pyspark.sql import DataFrame

from feature_store.day_commits import DayCommit
from feature_store.errors import TableError
from feature_store.revision import source_digest
from feature_store.tables import Lake, Table
from feature_store.worker_rows import WorkerRows

Status = Literal["built", "unchanged", "skipped"]
Counts = Mapping[str, int] | Callable[[DataFrame], Mapping[str, int]]


@dataclass(frozen=True)
class DayResult:
    """What a job did for one day of one table.

    Attributes
    ----------
    table, ds : what was built. rows : rows the day now has. counts : row accounting of the commit that stands.
    status : `built` (new content), `unchanged` (computed again, same content) or `skipped` (inputs, code and settings unchanged).
    seconds : wall time. note : anything a user should read. because : what changed since the commit that was replaced (see
    `changes`), empty when there was none.
    """

    table: str
    ds: str
    status: Status
    rows: int
    counts: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    note: str = ""
    because: str = ""


@dataclass(frozen=True)
class Made:
    """The new content of a day.

    Attributes
    ----------
    rows : the rows. counts : row accounting, or a function from the rows as written to it (so that nothing is computed twice); what
    `WorkerRows` count beside their rows is added to it.
    """

    rows: DataFrame | WorkerRows
    counts: Counts


def days_until(ds: str, days: int) -> list[str]:
    """The `days` days that end with `ds`, ascending.

    Examples
    --------
    >>> days_until("2026-03-01", 2)
    ['2026-02-28', '2026-03-01']
    """
    last = date.fromisoformat(ds)
    return [str(last - timedelta(n)) for n in reversed(range(days))]


def day_start(ds: str) -> datetime:
    """Midnight UTC at which a day starts.

    Examples
    --------
    >>> day_start("2026-03-01").isoformat()
    '2026-03-01T00:00:00+00:00'
    """
    return datetime.combine(date.fromisoformat(ds), datetime.min.time(), UTC)


def conserved(counts: Mapping[str, int], table: str, ds: str) -> dict[str, int]:
    """The counts, when what came in is what went out under some name (`in` = the sum of all others).

    Raises
    ------
    TableError : rows were lost or made up.

    Examples
    --------
    >>> conserved({"in": 3, "out": 2, "reject.null_user_id": 1}, "events", "2026-03-01")["out"]
    2
    """
    out = sum(n for name, n in counts.items() if name != "in")
    if counts.get("in") != out:
        raise TableError(f"table {table}, ds={ds}: {counts.get('in')} rows came in but {out} are accounted for ({dict(counts)}); "
                         "nothing was made visible, report this as a bug")
    return dict(counts)


def inputs_of(lake: Lake, days: Mapping[str, Iterable[str]], modules: Iterable[str], config: Mapping[str, Any]) -> dict[str, str]:
    """What a day is made from, for `DayCommit.made_from`: digests of input days, of the transform's code, and the settings it uses.

    Parameters
    ----------
    days : table name -> days read. modules : dotted names of the modules that hold the transform. config : plain values.
    """
    found = {f"{name}/{ds}": digest for name, wanted in days.items() for ds, digest in lake.table(name).digests(wanted).items()}
    return {**found, "code": source_digest(*sorted(modules)), "config": json.dumps(config, sort_keys=True, default=str)}


def changes(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """What differs between the inputs of two builds of a day (see `inputs_of`), in words.

    Examples
    --------
    >>> changes({"events/2026-03-02": "a", "code": "b", "config": '{"tokens": 5}'},
    ...         {"events/2026-03-02": "c", "code": "b", "config": '{"tokens": 6}'})
    'events/2026-03-02, settings (tokens)'
    >>> changes({"raw/log": "a", "code": "b"}, {"raw/log": "c", "code": "d"})
    'files of input log, code'
    """
    said = {"config": f"settings ({_settings_changed(before.get('config', '{}'), now.get('config', '{}'))})"}
    keys = [key for key in {**now, **before} if before.get(key) != now.get(key)]
    return ", ".join(said.get(key, f"files of input {key[4:]}" if key.startswith("raw/") else key) for key in keys)


def _settings_changed(before: str, now: str) -> str:
    old, new = json.loads(before), json.loads(now)
    return ", ".join(key for key in {**new, **old} if old.get(key) != new.get(key))


def build_day(table: Table, ds: str, inputs: Callable[[], Mapping[str, str]], make: Callable[[Mapping[str, str]], Made],
              **partition: str) -> DayResult:
    """Build one day unless it is current.

    Parameters
    ----------
    table : the table whose day is replaced. inputs : what it is made from (see `inputs_of`); called after `Table.begin`, so that an
        input that changes in between is seen. make : computes the content. partition : values of further partition columns.

    Raises
    ------
    TableError : rows are not accounted for. ConflictError : another writer committed the day meanwhile.
    """
    started = time.perf_counter()
    writer = table.begin(ds, **partition)
    wanted = inputs()
    before = writer.before
    if before and before.made_from(wanted):
        return _result(table, before, "skipped", started)
    made = make(wanted)
    counts = made.counts

    def checked(back: DataFrame, beside: Mapping[str, int]) -> dict[str, int]:
        own = counts(back) if callable(counts) else counts
        return conserved({**own, **beside}, table.contract.name, ds)

    after = writer.commit(made.rows, counts=checked, inputs=wanted)
    status: Status = "unchanged" if before and before.digest == after.digest else "built"
    return _result(table, after, status, started, changes(before.inputs, wanted) if before else "")


def _result(table: Table, commit: DayCommit, status: Status, started: float, because: str = "") -> DayResult:
    seconds = time.perf_counter() - started
    return DayResult(table.contract.name, commit.ds, status, commit.rows, dict(commit.counts), seconds, because=because)
