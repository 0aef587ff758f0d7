"""What is read of a Delta log: the newest commit of each day, whatever the order they were written in, and no more than needed."""

import random
import shutil
from pathlib import Path

import psutil
import pytest
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction
from deltalake.transaction import AddAction

from feature_store.day_commits import DayCommit, newest_commit, newest_commits, newest_first, noted
from feature_store.tables import Lake, Table

DAYS = [f"2026-01-{n:02d}" for n in range(1, 29)]


def commit(table: Table, ds: str, digest: str) -> None:
    """A commit of a day as `DayWriter` makes it; the file it names does not exist."""
    if not table.exists():
        table.begin(ds)
    delta, name = table.open(), f"ds={ds}"
    number = (delta.transaction_version(name) or 0) + 1
    own = DayCommit(ds, delta.version() + 1, 3, digest, "made from", inputs={"raw/log": "0" * 900})
    add = AddAction(f"{name}/run={digest}/part.parquet", 1, {"ds": ds}, 1, True, '{"numRecords": 3}')
    delta.create_write_transaction(
        [add], mode="overwrite", schema=delta.schema(), partition_by=["ds"], partition_filters=[("ds", "=", ds)],
        commit_properties=CommitProperties(custom_metadata=noted(own, name), app_transactions=[Transaction(name, number)]),
        post_commithook_properties=PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False))


@pytest.fixture
def table(tmp_path: Path) -> Table:
    return Lake(str(tmp_path)).table("movelines")


def read_by(delta: DeltaTable, days: list[str]) -> int:
    """Bytes that looking up some days reads."""
    before = psutil.Process().io_counters().read_chars
    newest_commits(delta, [f"ds={ds}" for ds in days])
    return psutil.Process().io_counters().read_chars - before


def test_each_day_has_its_newest_commit_in_whatever_order_they_were_built(table: Table) -> None:
    draw, newest = random.Random(3), dict[str, str]()
    for n in range(37):
        ds = draw.choice(DAYS[:12])
        commit(table, ds, f"d{n}")
        newest[ds] = f"d{n}"
    assert table.digests(DAYS) == {ds: newest.get(ds, "absent") for ds in DAYS}
    for ds in DAYS[:14]:
        found = table.day(ds)
        assert (found.digest if found else None) == newest.get(ds)
    assert len(list(newest_first(table.open()))) == 37


def test_an_older_commit_is_found_by_its_digest(table: Table) -> None:
    for digest in ("old", "new"):
        commit(table, DAYS[0], digest)
    for ds in DAYS[1:10]:
        commit(table, ds, "other")
    old = newest_commit(table.open(), f"ds={DAYS[0]}", "old")
    assert old is not None and (old.version, old.digest) == (1, "old")
    assert newest_commit(table.open(), f"ds={DAYS[0]}", "never") is None


def test_commits_that_land_after_the_table_was_opened_and_while_its_log_is_read_leave_every_version_true(table: Table) -> None:
    for n in range(9):
        commit(table, DAYS[n], f"v{n + 1}")
    delta = table.open()
    commit(table, DAYS[9], "v10")
    reading = newest_first(delta)
    found = [next(reading) for _ in range(4)]  # all of the first look
    commit(table, DAYS[10], "v11")
    found += reading
    assert [own.version for _, own in found] == list(range(10, 0, -1))
    assert all(own.digest == f"v{own.version}" for _, own in found)


def test_a_lookup_of_the_last_days_reads_as_much_of_a_long_log_as_of_a_short_one(table: Table) -> None:
    for ds in DAYS[:6]:
        commit(table, ds, "a")
    short = read_by(table.open(), DAYS[3:6])
    for ds in DAYS[6:]:
        commit(table, ds, "a")
    assert read_by(table.open(), DAYS[-3:]) == pytest.approx(short, rel=.2)
    for ds in DAYS:
        commit(table, ds, "b")
    whole = sum(file.stat().st_size for file in (Path(table.path) / "_delta_log").glob("*.json"))
    assert read_by(table.open(), [DAYS[-1], "2025-12-31"]) < .7 * whole


def opened(table: Table) -> int:
    """Bytes that opening the table, or again what was opened, reads."""
    before = psutil.Process().io_counters().read_chars
    table.open()
    return psutil.Process().io_counters().read_chars - before


def test_opening_a_long_log_reads_a_checkpoint_and_the_commits_after_it(table: Table) -> None:
    read = []
    for _ in range(3):
        for ds in DAYS[:20]:
            commit(table, ds, "a")
        read.append(opened(Table(str(Path(table.path).parent), table.contract)))
    assert max(read) < 1.3 * min(read)
    assert table.open().transaction_version(f"ds={DAYS[0]}") == 3


def test_a_table_opened_again_reads_what_was_committed_since_and_is_what_a_fresh_one_is(table: Table) -> None:
    draw, other = random.Random(5), Table(str(Path(table.path).parent), table.contract)
    for ds in DAYS:
        commit(other, ds, "a")
    assert opened(table) > 10_000 and opened(table) < 1_000
    for n in range(12):
        for m in range(draw.choice([0, 1, 2, 11])):
            commit(other, draw.choice(DAYS), f"{n}.{m}")
        again, fresh = table.open(), DeltaTable(table.path)
        assert again.version() == fresh.version() and sorted(again.file_uris()) == sorted(fresh.file_uris())
        assert all(again.transaction_version(f"ds={ds}") == fresh.transaction_version(f"ds={ds}") for ds in DAYS)


def test_a_table_whose_folder_was_deleted_is_created_anew(table: Table) -> None:
    for ds in DAYS[:3]:
        commit(table, ds, "a")
    shutil.rmtree(table.path)
    assert not table.exists() and table.days() == [] and table.day(DAYS[0]) is None
    commit(table, DAYS[5], "b")
    assert table.version() == 1 and table.days() == [DAYS[5]]
