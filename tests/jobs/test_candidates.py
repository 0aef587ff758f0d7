"""Lists of candidates against plain Python, and that nothing from after a page's cut gets into its list."""

import random
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pyarrow as pa
import pytest
from pyspark.sql import DataFrame, SparkSession

from feature_store.collate import flat, lengths
from feature_store.contracts import VOCABULARY
from feature_store.errors import ConfigError
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs import candidates as job
from jobs.context import CONTEXT_COLUMNS
from tests.jobs.naive import Row, at, ds_of, event, frame, random_events, recipe

DAYS = 86_400
PLAN = recipe(source={"exposures": [{"from": "log", "columns": {}}]}, split={"train_days": 1, "test_days": 1},
              candidates={"within": "query", "most": 4, "pages": 1_000})
LISTS = ("item_id", "category_id", "position", "price", "viewed", "clicked", "ordered")
TEST = ds_of(at(0))


def page(number: int, user: str, time: float, items: list[tuple[str, str | None, bool, bool]], known: float = 0) -> Row:
    """Items: id, category, viewed, clicked."""
    ids, categories, viewed, clicked = (list(x) for x in zip(*items, strict=True))
    empty = {name: [] for name in CONTEXT_COLUMNS}
    return {"page_id": f"p{number}", "user_id": user, "shown_time": at(time), "cut_time": at(time), "label_time": at(time + known),
            "available_time": at(time + known), "scene": "home", "scenario": "feed", "item_id": ids, "category_id": categories,
            "position": list(range(len(ids))), "price": [1.0] * len(ids), "viewed": viewed, "clicked": clicked,
            "ordered": [None] * len(ids), "n_merged": 0, **empty, "ds": ds_of(at(time))}


def log(seed: int) -> tuple[list[Row], list[Row]]:
    """Pages and events of two days with many equal times, late rows and corrections."""
    dice = random.Random(seed)
    pages = []
    for n in range(80):
        items = [(f"i{k}", dice.choice([None, "c1", "c2"]), dice.random() < 0.8, dice.random() < 0.4)
                 for k in dice.sample(range(12), dice.randrange(1, 5))]
        pages.append(page(n, f"u{dice.randrange(8)}", dice.choice([-DAYS, 0]) + dice.randrange(0, 7_200, 600), items,
                          dice.choice([0, 0, 900])))
    events = [e for n in range(8) for start in (-DAYS, 0) for e in random_events(dice, f"u{n}", 8, start=start, corrections=0.3)]
    return pages, [{**e, "query": dice.choice([None, "x", "y"])} for e in events]


def value(row: Row, events: Iterable[Row]) -> str | None:
    cut = row["cut_time"]
    own = [e for e in events if e["user_id"] == row["user_id"] and e["query"] and max(e["event_time"], e["available_time"]) <= cut
           and (e["replaced_time"] is None or e["replaced_time"] > cut)]
    return max(own, key=lambda e: (e["event_time"], e["seq"], e["event_id"]))["query"] if own else None


def clicks(row: Row) -> set[str]:
    return {i for i, v, c in zip(row["item_id"], row["viewed"], row["clicked"], strict=True) if v and c}


def expected(pages: list[Row], events: list[Row], most: int) -> dict[str, dict[str, str | None]]:
    """Page -> item -> category."""
    within = {p["page_id"]: value(p, events) for p in pages}
    found = {}
    for asked in (p for p in pages if p["ds"] == TEST and clicks(p) and within[p["page_id"]]):
        last: dict[str, tuple[Any, str]] = {}
        same = [p for p in pages if within[p["page_id"]] == within[asked["page_id"]]]
        for other in same:
            if other["shown_time"] < asked["cut_time"] and other["available_time"] <= asked["cut_time"]:
                for item, category in zip(other["item_id"], other["category_id"], strict=True):
                    last[item] = max(last.get(item, (other["shown_time"], "")), (other["shown_time"], category or ""))
        ordered = sorted(last, key=lambda i: (-last[i][0].timestamp(), i))[:most]
        if ordered:
            found[asked["page_id"]] = {i: last[i][1] or None for i in ordered}
    return found


def made(rows: DataFrame) -> dict[str, dict[str, str | None]]:
    found: dict[str, dict[str, str | None]] = {}
    for row in rows.collect():
        found.setdefault(row.page_id, {})[row.item_id] = row.category_id
    return found


def lists(spark: SparkSession, pages: list[Row], events: list[Row], most: int = 4) -> dict[str, dict[str, str | None]]:
    every = frame(spark, "pages", pages)
    values = job.page_values(every, frame(spark, "events", events), "query", "here")
    asked = job.asked_pages(every, job.split_times(PLAN, TEST).windows[2], 1_000)
    return made(job.shown_before(asked, every, values, most))


def test_lists_within_a_value_are_those_of_plain_python(spark: SparkSession) -> None:
    pages, events = log(1)
    wanted = expected(pages, events, 4)
    assert len(wanted) > 15 and {len(found) for found in wanted.values()} >= {4}
    assert lists(spark, pages, events) == wanted


def test_what_was_shown_or_known_after_the_cut_changes_no_list(spark: SparkSession) -> None:
    pages, events = log(2)
    before = lists(spark, pages, events, 100)
    cut = at(3_600)
    early = {p["page_id"] for p in pages if p["cut_time"] <= cut} & set(before)
    later = [{**p, "item_id": [f"new{n}" for n in range(len(p["item_id"]))]} if p["available_time"] > cut else p for p in pages]
    queries = [{**e, "query": "z"} if max(e["event_time"], e["available_time"]) > cut else e for e in events]
    after = lists(spark, later, queries, 100)
    assert len(early) > 5 and {p: after[p] for p in early if p in after} == {p: before[p] for p in early}
    assert any("new0" in found for found in after.values())  # later pages do have them


def test_a_sample_holds_the_clicks_and_about_so_many_of_the_catalogue(spark: SparkSession) -> None:
    asked = [page(n, "u1", 10, [("i1", "c1", True, n % 2 == 0), ("late", None, True, True), ("i2", None, False, True)])
             for n in range(60)]
    items = spark.createDataFrame([(f"i{n}", f"c{n % 3}") for n in range(500)], "item_id string, category_id string")
    found = made(job.sampled(frame(spark, "pages", asked), items, 50))
    assert all("late" in own for own in found.values()) and all("i1" in found[f"p{n}"] for n in range(0, 60, 2))
    sizes = [len(own) for own in found.values()]
    assert 47 < sum(sizes) / 60 < 57 and min(sizes) < max(sizes)
    assert sum("i2" in own for own in found.values()) < 30  # a click nobody viewed is none
    assert len({tuple(sorted(own)) for own in found.values()}) == 60  # every page has a sample of its own
    assert made(job.sampled(frame(spark, "pages", asked), items, 50)) == found


def test_lists_are_encoded_as_pages_with_the_labels_of_theirs(spark: SparkSession, lake: Lake) -> None:
    pages, events = log(3)
    pages.append(page(999, "a user without events", 600, [("i1", "c1", True, True)]))
    for name, rows in (("pages", pages), ("events", events)):
        for ds in sorted({r["ds"] for r in rows}):
            day = frame(spark, name, [r for r in rows if r["ds"] == ds]).coalesce(1)
            lake.table(name).begin(ds).commit(day, counts={}, inputs={}, arranged=True)
    ids = [("item", f"i{n}", 2 + n) for n in range(12)] + [("category", "c1", 2), ("category", "c2", 3)]
    entries = pa.table({"field": [i[0] for i in ids], "id": [i[1] for i in ids], "index": [i[2] for i in ids],
                        "first_time": pa.array([at(-DAYS) - timedelta(1)] * len(ids), VOCABULARY.schema.field("first_time").type)})
    found = job.candidate_lists(spark, PLAN, lake, TEST, Vocabulary(entries, 1), "conf/naive.yaml")
    wanted, by_id = expected(pages, events, 4), {p["page_id"]: p for p in pages}
    asked = [p for p in pages if p["ds"] == TEST and clicks(p)]
    assert (found.asked, found.clicks) == (len(asked), sum(len(clicks(p)) for p in asked)) and found.asked > len(wanted)
    assert set(found.pages["page_id"].to_pylist()) == set(wanted)
    for row in found.pages.to_pylist():
        own, of_page = wanted[row["page_id"]], clicks(by_id[row["page_id"]])
        assert row["candidate_item"] == [2 + int(i[1:]) for i in sorted(own)]
        assert row["candidate_category"] == [{None: 0, "c1": 2, "c2": 3}[own[i]] for i in sorted(own)]
        assert row["clicked"] == [float(i in of_page) for i in sorted(own)]
    assert 0 < sum(flat(found.pages, "clicked")) < found.clicks
    assert set(flat(found.pages, "weight")) == {1.0} and set(flat(found.pages, "price_known")) == {0.0}
    assert sum(lengths(found.pages, "candidate_item")) == sum(len(own) for own in wanted.values())


def test_a_wrong_expression_is_said_with_its_place(spark: SparkSession) -> None:
    with pytest.raises(ConfigError, match=r"here: 'town': there is no column `?town"):
        job.page_values(frame(spark, "pages", []), frame(spark, "events", [event("u", 1)]), "town", "here")
