"""`moveline daily` killed with -9 while each of its tables is written, in turn; then the day is what it would have been."""

from functools import partial
from pathlib import Path

import pytest

from feature_store.tables import Lake
from tests.drills.command import begun, done, killed_when, small
from tests.drills.shop import Recovery

DAY = "2026-03-02"
TABLES = ("events", "exposures", "movelines", "visits", "vocabulary", "pages", "pairs", "pair_counts", "flows")


def has_data(table: Path) -> bool:
    return any(table.rglob("*.parquet"))


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_a_day_killed_while_each_of_its_tables_is_written_ends_as_if_nothing_had_happened(
        tmp_path: Path, recovery: Recovery) -> None:
    recipe, calm, hurt = str(small(tmp_path, users=100)), tmp_path / "calm", tmp_path / "hurt"
    for command in ("simulate", "daily"):
        done(tmp_path, command, "--conf", recipe, MOVELINE_LAKE=str(calm))
    daily = ("daily", "--conf", recipe)
    killed = [name for name in TABLES
              if killed_when(begun(tmp_path, *daily, MOVELINE_LAKE=str(hurt)), partial(has_data, hurt / "small" / name))]
    assert len(killed) >= 6, f"runs were over before they could be killed; killed were {killed}"
    with recovery("a whole day killed while it writes: the rest of the day (start of Spark included)"):
        done(tmp_path, *daily, MOVELINE_LAKE=str(hurt))
    for name in TABLES:
        wanted, found = (Lake(str(lake / "small")).table(name).digests([DAY])[DAY] for lake in (calm, hurt))
        assert found == wanted != "absent", name
