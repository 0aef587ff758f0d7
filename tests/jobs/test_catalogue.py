"""Versions of items out of catalogues: the same as out of every day of items, corrected days too, from a bounded number of rows."""

import random
from datetime import timedelta

import pytest
from pyspark.sql import SparkSession
from pyspark.sql import functions as F

from feature_store.tables import Lake
from jobs import catalogue
from tests.jobs.naive import ZERO, Row, at, ds_of, fill

DAYS = [ds_of(ZERO + timedelta(n)) for n in range(9)]
ITEMS_A_DAY = 20


def descriptions(dice: random.Random, days: list[int]) -> list[Row]:
    """Most of 30 items on every day, valid since some time before it to some time after it, some of them known late."""
    found = []
    for day in days:
        start = 86_400 * day
        for item in dice.sample(range(30), ITEMS_A_DAY):
            valid = start + dice.randrange(-40_000, 200_000)
            known = max(start, valid) + dice.choice([0, 0, 50_000, 150_000]) if dice.random() < 0.7 else start
            found.append({"item_id": f"i{item}", "category_id": dice.choice([None, "a", "b", "c"]), "valid_from": at(valid),
                          "available_time": at(known), "ds": DAYS[day]})
    return found


def versions(spark: SparkSession, lake: Lake, ds: str, whole: bool = False) -> dict[str, list[tuple]]:
    rows = lake.read(spark, "items", catalogue.item_days(lake, ds)) if whole else catalogue.known_versions(spark, lake, ds)
    found = catalogue.item_versions(rows, ds).collect()
    return {row.item_id: sorted((v.valid_from, v.available_time, v.category_id or "") for v in row.versions) for row in found}


def test_what_a_day_may_need_is_what_all_days_say_and_what_it_reads_is_bounded(spark: SparkSession, lake: Lake,
                                                                               monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FEW", 30)
    dice = random.Random(3)
    for n, ds in enumerate(DAYS):
        fill(spark, lake, {"items": descriptions(dice, [n])})
        assert versions(spark, lake, ds) == versions(spark, lake, ds, whole=True), ds
    made = lake.table("catalogue").days()
    assert made[0] == DAYS[2] and 1 < len(made) < len(DAYS) - 2
    rows = [lake.table("catalogue").day(ds).rows for ds in made]
    assert catalogue.known_versions(spark, lake, DAYS[-1]).count() <= 2 * max(rows) + 2 * ITEMS_A_DAY
    start = F.lit(made[-1]).cast("timestamp")
    known = lake.read(spark, "catalogue", made[-1:]).where((F.col("valid_from") <= start) & (F.col("available_time") <= start))
    assert known.groupBy("item_id").count().where("count > 1").count() == 0
    counts = lake.table("catalogue").day(made[-1]).counts
    assert counts["superseded"] > 0 and counts["in"] == counts["out"] + counts["superseded"]


def test_after_a_correction_no_catalogue_of_the_old_items_is_read(spark: SparkSession, lake: Lake,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FEW", 0)
    rows = descriptions(random.Random(4), list(range(4)))
    fill(spark, lake, {"items": rows})
    before = versions(spark, lake, DAYS[3])
    fill(spark, lake, {"items": [{**row, "category_id": "corrected"} for row in rows if row["ds"] == DAYS[1]]})
    for ds in (DAYS[3], DAYS[2]):
        assert versions(spark, lake, ds) == versions(spark, lake, ds, whole=True) != before


def test_few_items_are_read_where_they_are(spark: SparkSession, lake: Lake) -> None:
    assert versions(spark, lake, DAYS[0]) == {}
    fill(spark, lake, {"items": descriptions(random.Random(5), [0, 1])})
    assert versions(spark, lake, DAYS[1]) == versions(spark, lake, DAYS[1], whole=True) and not lake.table("catalogue").exists()
