"""Pairs against a naive SQL self-join on small random pages, and what sampling promises."""

import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import PAGES, PAIR_KINDS
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs.pairs import build, exact_counts, pair_counts, sampled_pairs
from jobs.ragged import counted, mixed, smallest

DAY = "2026-01-05"
NOON = datetime(2026, 1, 5, 12, tzinfo=UTC)
Shown = Sequence[tuple[str, bool, bool]]
"""Items of a page by position: id, viewed, clicked."""


def category(item: str) -> str | None:
    """Every third item has none."""
    number = sum(map(ord, item))
    return f"c{number % 5}" if number % 3 else None


def pages(spark: SparkSession, shown: dict[str, Shown], ds: str = DAY) -> DataFrame:
    rows = []
    for n, (page, items) in enumerate(shown.items()):
        row: dict[str, object] = {f.name: [] for f in PAGES.schema}
        time = NOON + timedelta(seconds=n)
        row |= {"page_id": page, "user_id": f"u{n % 7}", "scene": "home", "scenario": "feed", "n_merged": 0, "ds": ds,
                "trigger_item_id": None, "trigger_category_id": None, "trigger_source": None,
                **{c: time for c in ("shown_time", "label_time", "available_time", "cut_time")},
                "item_id": [i[0] for i in items], "viewed": [i[1] for i in items], "clicked": [i[2] for i in items],
                "category_id": [category(i[0]) for i in items], "position": list(range(len(items))), "price": [None] * len(items),
                "ordered": [None] * len(items)}
        rows.append(tuple(row[f.name] for f in PAGES.schema))
    return spark.createDataFrame(rows, spark_schema(PAGES.schema))


def random_pages(seed: int, count: int, longest: int) -> dict[str, Shown]:
    draw = random.Random(seed)
    found: dict[str, Shown] = {}
    for n in range(count):
        ids = draw.sample([f"i{k}" for k in range(longest * 2)], draw.randint(0, longest))
        share = draw.choice([0.0, 0.2, 0.6])
        found[f"p{n}"] = [(i, draw.random() < 0.85, draw.random() < share) for i in ids]
    return found


def flat(pairs: DataFrame) -> list[tuple[object, ...]]:
    one = pairs.select("page_id", F.explode(F.arrays_zip("left_item", "right_item", "kind", "weight")).alias("p"))
    return sorted(tuple(r) for r in one.select("page_id", "p.*").collect())


NAIVE = """
with shown as (select page_id, s.item_id, s.clicked from pages
               lateral view explode(arrays_zip(item_id, viewed, clicked)) t as s where s.viewed)
select a.page_id, a.item_id, b.item_id,
       case int(a.clicked) + int(b.clicked) when 2 then 'co_click' when 1 then 'mono_click' else 'co_non_click' end, 1.0d
from shown a join shown b on a.page_id = b.page_id and a.item_id < b.item_id
"""


@pytest.mark.parametrize("block", [1, 50, 1 << 20])
def test_without_a_cap_pairs_equal_a_naive_self_join(spark: SparkSession, block: int) -> None:
    frame = pages(spark, random_pages(1, 60, 9))
    frame.createOrReplaceTempView("pages")
    naive = sorted(tuple(r) for r in spark.sql(NAIVE).collect())
    assert flat(sampled_pairs(frame, 1_000, block).frame) == naive and len(naive) > 300


def test_a_pair_carries_the_categories_of_its_items(spark: SparkSession) -> None:
    rows = sampled_pairs(pages(spark, random_pages(3, 40, 9)), 5).frame.collect()
    pairs = [(item, own) for row in rows for side in ("left", "right")
             for item, own in zip(row[f"{side}_item"], row[f"{side}_category"], strict=True)]
    assert all(own == category(item) for item, own in pairs)
    assert len(pairs) > 100 and {own is None for _, own in pairs} == {True, False}


def test_exact_counts_equal_the_naive_counts_and_the_closed_form(spark: SparkSession) -> None:
    frame = pages(spark, random_pages(2, 80, 12))
    rows = {r.page_id: r for r in sampled_pairs(frame, 3).frame.collect()}
    frame.createOrReplaceTempView("pages")
    by_kind = f"select page_id, kind, count(*) from ({NAIVE}) t(page_id, a, b, kind, w) group by 1, 2"
    naive = {(r[0], r[1]): r[2] for r in spark.sql(by_kind).collect()}
    assert len(rows) == 80
    for page, row in rows.items():
        assert [row[k] for k in PAIR_KINDS] == [naive.get((page, k), 0) for k in PAIR_KINDS]
        assert sum(row[k] for k in PAIR_KINDS) == row.n_items * (row.n_items - 1) // 2
        assert [row.kind.count(k) for k in PAIR_KINDS] == [min(row[k], 3) for k in PAIR_KINDS]
        for kind, weight in zip(row.kind, row.weight, strict=True):
            assert weight == max(row[kind] / 3, 1)


def test_a_page_without_clicks_of_one_item_of_none_and_with_items_nobody_viewed(spark: SparkSession) -> None:
    shown: dict[str, Shown] = {
        "no click": [("b", True, False), ("a", True, False), ("c", True, False)], "one": [("a", True, True)], "none": [],
        "unseen": [("a", True, True), ("b", False, True), ("c", True, False)]}
    rows = {r.page_id: r for r in sampled_pairs(pages(spark, shown), 9).frame.collect()}
    assert {p: (r.n_items, r.n_clicked, r.co_click, r.co_non_click, r.mono_click) for p, r in rows.items()} == {
        "no click": (3, 0, 0, 3, 0), "one": (1, 1, 0, 0, 0), "none": (0, 0, 0, 0, 0), "unseen": (2, 1, 0, 0, 1)}
    assert list(zip(rows["no click"].left_item, rows["no click"].right_item, strict=True)) == [("a", "b"), ("a", "c"), ("b", "c")]
    assert (rows["unseen"].left_item, rows["unseen"].right_item, rows["unseen"].kind) == (["a"], ["c"], ["mono_click"])
    assert rows["one"].left_item == rows["none"].kind == []


def test_a_page_far_over_the_block_gives_the_same_sample_as_in_one_piece(spark: SparkSession) -> None:
    long: dict[str, Shown] = {f"p{n}": [(f"i{k:04d}", True, k % 9 == n) for k in range(700)] for n in range(2)}
    frame = pages(spark, long).coalesce(1)
    small, whole = (flat(sampled_pairs(frame, 20, block).frame) for block in (5_000, 1 << 20))
    assert small == whole and len(whole) == 2 * 3 * 20


def test_the_sample_does_not_depend_on_partitions_or_order(spark: SparkSession, lake: Lake) -> None:
    frame = pages(spark, random_pages(3, 50, 14))
    digests = set()
    for shape in (frame.coalesce(1), frame.repartition(5, "page_id"), frame.orderBy(F.desc("shown_time"))):
        pairs = lake.table("pairs").begin(DAY).commit(sampled_pairs(shape, 4), counts={}, inputs={})
        spread = pair_counts(lake.read(spark, "pairs").repartition(3))
        digests.add((pairs.digest, lake.table("pair_counts").begin(DAY).commit(spread, counts={}, inputs={}).digest))
    assert len(digests) == 1


def test_weighted_counts_are_unbiased_over_many_pages(spark: SparkSession) -> None:
    """400 pages show the same 12 items with the same 4 clicks: each pair is expected 400 times, of any cap."""
    shown: dict[str, Shown] = {f"p{n}": [(f"i{k:02d}", True, k < 4) for k in range(12)] for n in range(400)}
    rows = pair_counts(sampled_pairs(pages(spark, shown), 5).frame).collect()
    assert len(rows) == 66
    for kind, count in zip(PAIR_KINDS, (6, 28, 32), strict=True):
        totals = np.array([r[kind] for r in rows if r[kind]])
        assert totals.size == count and totals.sum() == pytest.approx(400 * count)
        inclusion = 5 / count
        deviation = (400 * (1 - inclusion) / inclusion) ** 0.5
        assert np.abs(totals - 400).max() < 4.5 * deviation
        assert totals.std() < 1.5 * deviation
        assert kind == "co_click" or totals.std() > 0.5 * deviation  # as spread as independent draws, so really a random sample


def test_two_items_count_in_each_kind_they_were(spark: SparkSession) -> None:
    shown: dict[str, Shown] = {"p1": [("a", True, True), ("b", True, True)], "p2": [("b", True, False), ("a", True, True)],
                               "p3": [("b", True, True), ("a", True, True)], "p4": [("b", True, False), ("c", True, False)]}
    rows = {(r.item_a, r.item_b): (r.co_click, r.co_non_click, r.mono_click, r.ds)
            for r in pair_counts(sampled_pairs(pages(spark, shown), 9).frame).collect()}
    assert rows == {("a", "b"): (2.0, 0.0, 1.0, DAY), ("b", "c"): (0.0, 1.0, 0.0, DAY)}


def test_building_twice_skips_and_an_unchanged_output_stops_the_spreading(spark: SparkSession, lake: Lake) -> None:
    recipe = Recipe.model_validate({"name": "t", "pairs": {"max_a_page": 5}, "source": {
        "inputs": {"raw": {"path": "x"}}, "events": [{"from": "raw", "columns": {}}]}})
    lake.table("pages").begin(DAY).commit(pages(spark, random_pages(4, 30, 8)), counts={}, inputs={}, arranged=True)
    first = build(spark, recipe, lake, DAY)
    versions = [lake.table(n).version() for n in ("pairs", "pair_counts")]
    again = build(spark, recipe, lake, DAY)
    assert [r.status for r in first] == ["built", "built"] and [r.status for r in again] == ["skipped", "skipped"]
    assert [lake.table(n).version() for n in ("pairs", "pair_counts")] == versions
    assert first[0].counts == {"in": 30, "out": 30}
    assert first[1].counts["in"] == first[1].counts["out"] + first[1].counts["merged"] > 100
    total = lake.read(spark, "pairs").agg(*(F.sum(k) for k in PAIR_KINDS)).first()
    weighted = lake.read(spark, "pair_counts").agg(*(F.sum(k) for k in PAIR_KINDS)).first()
    assert list(weighted or []) == pytest.approx(list(total or []))


def test_an_empty_day_has_no_pairs(spark: SparkSession) -> None:
    empty = pages(spark, {})
    assert sampled_pairs(empty, 5).frame.count() == 0 and pair_counts(sampled_pairs(empty, 5).frame).count() == 0
    assert exact_counts(empty).count() == 0


def test_ragged_arithmetic_on_nothing() -> None:
    none, no_key = np.zeros(0, np.int64), np.zeros(0, np.uint64)
    assert counted(none).size  == smallest(none, no_key, 3).size == 0
    assert mixed(no_key, no_key).size == 0
