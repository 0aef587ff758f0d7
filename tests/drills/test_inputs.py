"""What comes in is broken, missing, late of schema, ten times as much or from tomorrow: the day before stands, nothing half-read is
visible, and the mended day is what it would have been."""

import shutil
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.drills import shop
from tests.drills.conftest import Calm
from tests.drills.shop import ONE, TWO, Recovery, Run

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]
Change = Callable[[Path], None]


def truncated(data: Path) -> None:
    path = shop.file(data, "events", TWO)
    path.write_bytes(path.read_bytes()[:-200])


def column_gone(data: Path) -> None:
    pq.write_table(shop.events(TWO).drop_columns(["item"]), shop.file(data, "events", TWO))


def type_changed(data: Path) -> None:
    pq.write_table(shop.events(TWO).set_column(2, "time", pa.array(["noon"] * 120)), shop.file(data, "events", TWO))


def folder_missing(data: Path) -> None:
    shutil.rmtree(shop.file(data, "events", TWO).parent)


def clock_a_day_ahead(data: Path) -> None:
    pq.write_table(tomorrow(shop.events(TWO)), shop.file(data, "events", TWO))


def tomorrow(table: pa.Table) -> pa.Table:
    ahead = pc.add(table["time"], pa.scalar(86_400_000_000, pa.duration("us")))
    return table.set_column(2, "time", ahead)


@pytest.mark.parametrize(("damage", "says"), [
    (truncated, "part.parquet is corrupt or not of the configured format; replace it"),
    (column_gone, "shop.yaml: source.events[0].columns.item_id: 'item'"),
    (type_changed, "120 of 120 rows"),
    (folder_missing, "input 'events': no data at"),
    (clock_a_day_ahead, "outside_day 120"),
])
def test_a_day_that_cannot_be_read_leaves_everything_as_it_was_and_is_built_once_it_is_mended(
        calm: Calm, data: Path, tmp_path: Path, run: Run, recovery: Recovery, damage: Change,
        says: str) -> None:
    daily = ("daily", "--conf", str(shop.recipe(tmp_path)), "--data", str(data), "--ds", TWO)
    damage(data)
    code, said = run(*daily)
    assert code == (2 if damage is column_gone else 1) and said.splitlines()[-1].startswith("error: ") and says in said, said
    assert shop.digests(ONE) == calm.digests[ONE]
    assert {name for name, found in shop.digests(TWO).items() if found != "absent"} == set()
    shop.log_day(data, TWO)
    with recovery(f"input: {damage.__name__.replace('_', ' ')}"):
        assert run(*daily)[0] == 0
    assert shop.digests(TWO) == calm.digests[TWO] and shop.digests(ONE) == calm.digests[ONE]


def test_a_column_more_and_a_type_that_still_fits_change_nothing(
        calm: Calm, data: Path, tmp_path: Path, run: Run) -> None:
    pq.write_table(shop.events(TWO).append_column("app_version", pa.array(["9.1"] * 120)), shop.file(data, "events", TWO))
    pages = shop.shown(TWO)
    pq.write_table(pages.set_column(4, "place", pages["place"].cast(pa.string())), shop.file(data, "shown", TWO))
    assert run("daily", "--conf", str(shop.recipe(tmp_path)), "--data", str(data), "--ds", TWO)[0] == 0
    assert shop.digests(TWO) == calm.digests[TWO]


def test_a_day_without_data_is_empty_where_the_recipe_allows_it_and_is_filled_when_it_comes(
        calm: Calm, data: Path, tmp_path: Path, run: Run, recovery: Recovery) -> None:
    daily = ("daily", "--conf", str(shop.recipe(tmp_path, optional=True)), "--data", str(data), "--ds", TWO)
    for name in ("events", "shown"):
        shutil.rmtree(shop.file(data, name, TWO).parent)
    code, said = run(*daily)
    assert code == 0 and "no rows of this day; the input is empty" in said, said
    found = [shop.lake().table(name).day(TWO) for name in ("events", "exposures", "pages", "flows")]
    assert all(day is not None and day.rows == 0 for day in found)
    assert [shop.lake().table(name).days() for name in ("events", "pages")] == [[ONE], [ONE]]
    shop.log_day(data, TWO)
    with recovery("input: a day without data that comes later"):
        assert run(*daily)[0] == 0
    assert shop.digests(TWO) == calm.digests[TWO]


def test_some_events_from_tomorrow_are_refused_by_name_and_the_rest_is_built(
        calm: Calm, data: Path, tmp_path: Path, run: Run) -> None:
    ahead = tomorrow(shop.events(TWO).slice(0, 4))
    ahead = ahead.set_column(0, "id", pa.array([f"ahead-{n}" for n in range(4)]))
    pq.write_table(pa.concat_tables([shop.events(TWO), ahead]), shop.file(data, "events", TWO))
    code, said = run("daily", "--conf", str(shop.recipe(tmp_path)), "--data", str(data), "--ds", TWO)
    assert code == 0 and "reject.outside_day 4" in said, said
    assert shop.digests(TWO) == calm.digests[TWO]
    refused = shop.lake().table("rejects").day({"ds": TWO, "origin": "events"})
    assert refused is not None and refused.rows == 4


def test_a_day_with_ten_times_the_data_is_built_whole_and_the_day_before_stands(
        calm: Calm, data: Path, tmp_path: Path, run: Run, recovery: Recovery) -> None:
    shop.log_day(data, TWO, users=100)
    pq.write_table(pa.concat_tables([shop.events(TWO, users=100), crowd()]), shop.file(data, "events", TWO))
    with recovery("a day with ten times the data (no fault: time to build it)"):
        code, said = run("daily", "--conf", str(shop.recipe(tmp_path)), "--data", str(data), "--ds", TWO)
    assert code == 0, said
    table = shop.lake().table
    days = {name: table(name).day(TWO) for name in shop.TABLES}
    rows = {name: day.rows for name, day in days.items() if day}
    assert (rows["events"], rows["exposures"], rows["pages"], rows["movelines"]) == (1_200 + 6_000, 500, 100, 101)
    tokens = table("movelines").read_arrow([TWO], ["user_id", "n_tokens"]).to_pylist()
    assert {r["user_id"]: r["n_tokens"] for r in tokens}["robot"] == 5_000  # the cap of the recipe; what is over it is counted
    assert days["movelines"] is not None and days["movelines"].counts["over_cap"] == 1_000
    assert shop.digests(ONE) == calm.digests[ONE]


def crowd() -> pa.Table:
    """One user who does as much as all others together, several times over."""
    each = range(6_000)
    return pa.table({"id": [f"r{n}" for n in each], "user": ["robot"] * len(each), "item": [f"i{n % 20}" for n in each],
                     "time": [shop.noon(TWO) + timedelta(seconds=n) for n in each]}).select(["id", "user", "time", "item"])
