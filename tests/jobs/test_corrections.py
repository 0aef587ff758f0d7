"""Corrections and deletes that come a day late: what a page was built from stays, later pages see what is true, and building all
days at once afterwards gives what building them day by day gave."""

from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.recipe import Recipe, load_recipe
from feature_store.tables import Lake
from jobs.daily import run_day
from tests.jobs.test_daily import ONE, TWO, conf, event, put, shown

SAME = ["events", "exposures", "movelines", "visits", "pages", "pairs", "pair_counts", "flows"]


def with_op(tmp_path: Path, **sections: object) -> Path:
    """The small recipe, whose events may correct and delete."""
    content = yaml.safe_load(conf(tmp_path).read_text())
    content["source"]["inputs"]["events"]["columns"] += ", op string"
    content["source"]["events"][0]["columns"]["op"] = "op"
    path = tmp_path / f"corrected{len(sections)}.yaml"
    path.write_text(yaml.safe_dump({**content, **sections}))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    put(root, "events", ONE, [{**event(1, "u0", f"{ONE} 10:00:00", "wrong"), "op": "upsert"},
                              {**event(2, "u0", f"{ONE} 10:01:00", "gone"), "op": "upsert"},
                              {**event(3, "u0", f"{ONE} 10:02:00", "kept"), "op": "upsert"}])
    for day in (ONE, TWO):
        put(root, "exposures", day, shown(f"p{day}", "u0", f"{day} 10:05:30", "abc", "a"))
    return root


def late_rows(root: Path) -> None:
    put(root, "events", TWO, [{**event(1, "u0", f"{ONE} 10:00:00", "right", f"{TWO} 09:00:00"), "op": "upsert"},
                              {**event(2, "u0", f"{ONE} 10:01:00", "", f"{TWO} 09:00:00"), "op": "delete"},
                              {**event(4, "u0", f"{TWO} 09:30:00", "next"), "op": "upsert"}])


def seen(spark: SparkSession, lake: Lake, ds: str) -> list[str]:
    row = lake.read(spark, "pages", [ds]).select("moveline_item").first()
    return list(row.moveline_item)


def digests(lake: Lake, names: list[str]) -> dict[tuple[str, str], str]:
    return {(name, ds): lake.table(name).digests([ds])[ds] for name in names for ds in (ONE, TWO)}


@pytest.mark.drill
def test_a_late_correction_reaches_later_pages_and_never_those_before_it(
        spark: SparkSession, tmp_path: Path, data: Path) -> None:
    path = with_op(tmp_path)
    recipe, lake = load_recipe(path), Lake(str(tmp_path / "lake"))

    def run(made_for: Recipe, into: Lake, ds: str) -> dict[str, str]:
        return {r.table: r.status for r in run_day(spark, made_for, into, ds, data, path) if r.ds == ONE or ds == ONE}

    run(recipe, lake, ONE)
    before = digests(lake, ["pages", "pairs", "visits"])
    assert seen(spark, lake, ONE) == ["wrong", "gone", "kept"]

    late_rows(data)
    changed = run(recipe, lake, TWO)
    assert changed["events"] == changed["movelines"] == "built" and "pages" not in changed
    assert seen(spark, lake, TWO) == ["right", "kept", "next"]
    counts = lake.table("events").day(ONE)
    assert counts is not None and counts.rows == 4 and counts.counts == {"in": 5, "out": 2, "superseded": 1, "deleted": 2}
    futures = lake.read(spark, "flows", [ONE]).select("future_item").collect()
    assert {item for row in futures for item in row.future_item} == {"right", "kept"}

    # Built again for another reason, with the corrections there: the page still saw what was known then.
    again = recipe.model_copy(update={"movelines": recipe.movelines.model_copy(update={"tokens": 40})})
    assert run(again, lake, ONE)["pages"] == "unchanged" and seen(spark, lake, ONE) == ["wrong", "gone", "kept"]
    after = digests(lake, ["pages", "pairs", "visits"])
    assert all(after[name, ONE] == before[name, ONE] for name in ("pages", "pairs", "visits"))

    # A backfill of everything, long after.
    fresh = Lake(str(tmp_path / "fresh"))
    for ds in (ONE, TWO):
        run(again, fresh, ds)
    run(again, lake, TWO)
    assert digests(fresh, SAME) == digests(lake, SAME)
