"""Pages against plain Python: what was shown, merged and refused, categories and contexts as of the cut, and the files of a day."""

import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from feature_store.errors import InputError
from feature_store.row_digest import row_digest
from feature_store.tables import Lake
from jobs import catalogue
from jobs import pages as job
from jobs.context import CONTEXT_COLUMNS
from jobs.movelines import build as build_movelines
from jobs.visits import build as build_visits
from tests.jobs.naive import DAY, ZERO, Row, at, by_user, event, exposure, fill, frame, naive_tokens, random_events, recipe

LISTS = ("item_id", "category_id", "position", "price", "viewed", "clicked", "ordered")
CONF = "recipes/naive.yaml"
PLAN = recipe(source={"exposures": [{"from": "log", "columns": {}}]}, movelines={"tokens": 4, "days": 2, "visit_gap_s": 600},
              quality={"max_reject_share": 1.0, "max_page_items": 12}, pages={"cuts": ["at_show", "at_click"]})


def random_log(seed: int, pages: int = 150) -> dict[str, list[Row]]:
    dice = random.Random(seed)
    shown = []
    for n in range(pages):
        user, time, trigger = f"u{dice.randrange(30)}", dice.randrange(0, 7_200, 60), dice.choice([None, "i1", "i9"])
        for place in range(dice.choice([1, 4, 8, 13])):
            clicked = dice.random() < 0.2
            mixed = {"scene": "odd"} if dice.random() < 0.01 else {}
            click = at(time + dice.randrange(900)) if clicked else None
            shown.append(exposure(f"p{n}", user, time, f"i{dice.randrange(10)}", place // 2, trigger_item_id=trigger,
                                  clicked=clicked, click_time=click, price=dice.choice([None, 1.5, 2.5]),
                                  ordered=dice.choice([None, True, False]), viewed=dice.random() < 0.8,
                                  label_time=at(time + dice.randrange(3_600)), **mixed))
    starts = (-90_000, -40_000, 0)
    events = [e for n in range(30) for e in random_events(dice, f"u{n}", dice.choice([0, 2, 9]), start=dice.choice(starts))]
    items = [{"item_id": f"i{k}", "category_id": dice.choice([None, f"c{v}"]), "valid_from": at(start),
              "available_time": at(start + dice.choice([0, 2_000])), "ds": at(start).strftime("%Y-%m-%d")}
             for k in range(9) for v, start in enumerate([-90_000, dice.randrange(-9_000, 0), dice.randrange(7_200)])]
    return {"events": events, "exposures": shown, "items": items}


def category(items: list[Row], item: str | None, cut: datetime) -> str | None:
    known = [r for r in items if r["item_id"] == item and r["valid_from"] <= cut and r["available_time"] <= cut]
    return max(known, key=lambda r: (r["valid_from"], r["available_time"]))["category_id"] if known else None


def reason(rows: list[Row]) -> str | None:
    keys = ("user_id", "scene", "scenario", "trigger_item_id", "shown_time")
    if len({tuple(r.get(k) for k in keys) for r in rows}) > 1:
        return "page_mixed"
    return "page_too_long" if len(rows) > 12 else None


def any_true(values: list[bool | None]) -> bool | None:
    known = [v for v in values if v is not None]
    return any(known) if known else None


def expected(log: dict[str, list[Row]], at_click: bool) -> tuple[dict[str, Row], dict[str, int]]:
    by_page: dict[str, list[Row]] = defaultdict(list)
    for row in log["exposures"]:
        by_page[row["page_id"]].append(row)
    pages, counts = {}, {"in": len(log["exposures"]), "out": 0, "merged": 0}
    for page, rows in by_page.items():
        bad = reason(rows)
        if bad:
            counts[f"reject.{bad}"] = counts.get(f"reject.{bad}", 0) + len(rows)
            continue
        pages[page] = one_page(rows, log, at_click)
        counts["out"] += len(pages[page]["item_id"])
        counts["merged"] += pages[page]["n_merged"]
    return pages, counts


def one_page(rows: list[Row], log: dict[str, list[Row]], at_click: bool) -> Row:
    head = rows[0]
    clicks = [r["click_time"] for r in rows if r["clicked"]]
    cut = max(head["shown_time"], min(clicks)) if at_click and clicks else head["shown_time"]
    places: dict[str, list[Row]] = defaultdict(list)
    for row in sorted(rows, key=lambda r: (r["position"], r["price"] is None, r["price"] or 0)):
        places[row["item_id"]].append(row)
    shown = [{**group[0], "category_id": category(log["items"], item, cut),
              **{c: any_true([r[c] for r in group]) for c in ("viewed", "clicked", "ordered")}} for item, group in places.items()]
    shown.sort(key=lambda r: (r["position"], r["item_id"]))
    start = ZERO - timedelta(days=PLAN.movelines.days - 1)
    own = [e for e in by_user(log["events"]).get(head["user_id"], []) if e["event_time"] >= start]
    tokens = naive_tokens(own, cut, 4, 2, 0)
    return {
        **{c: [r[c] for r in shown] for c in LISTS}, "user_id": head["user_id"], "shown_time": head["shown_time"], "cut_time": cut,
        "label_time": max(r["label_time"] for r in rows), "n_merged": len(rows) - len(shown),
        "trigger_item_id": head["trigger_item_id"],
        "trigger_category_id": category(log["items"], head["trigger_item_id"], cut),
        "moveline_time": [t["event_time"] for t in tokens], "moveline_item": [t["item_id"] for t in tokens]}


def plain(value: Any) -> Any:
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.astimezone(UTC) if isinstance(value, datetime) else value


def prepare(spark: SparkSession, lake: Lake) -> None:
    for ds in ("2026-01-04", DAY):
        build_movelines(spark, PLAN, lake, ds)
        build_visits(spark, PLAN, lake, ds)


def test_pages_at_show_and_at_click_are_those_of_the_oracle(spark: SparkSession, lake: Lake,
                                                            monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(catalogue, "FEW", 0)  # the items of the days before are read from a catalogue
    log = random_log(1)
    fill(spark, lake, log)
    prepare(spark, lake)
    results = job.build(spark, PLAN, lake, DAY, CONF)
    assert lake.table("catalogue").days() == [DAY]
    for result, at_click in zip(results, (False, True), strict=True):
        pages, counts = expected(log, at_click)
        assert (result.status, result.rows, result.counts) == ("built", len(pages), counts)
        found = {r.page_id: r for r in lake.read(spark, result.table).collect()}
        assert found.keys() == pages.keys()
        for page, wanted in pages.items():
            assert {c: plain(found[page][c]) for c in wanted} == wanted, page
    rejects = [r.reason for r in lake.read(spark, "rejects").where("origin = 'pages'").collect()]
    assert {f"reject.{r}": rejects.count(r) for r in rejects} == {k: n for k, n in counts.items() if k.startswith("reject")}
    assert [r.status for r in job.build(spark, PLAN, lake, DAY, CONF)] == ["skipped", "skipped"]


def test_a_file_is_one_row_group_and_no_user_is_in_two(spark: SparkSession, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(job, "PAGES_A_BUCKET", 10)
    fill(spark, lake, {"exposures": random_log(2)["exposures"]})
    job.build(spark, PLAN, lake, DAY, CONF)
    files = [f.removeprefix("file://") for f in lake.table("pages").files([DAY])]
    assert len(files) > job.MIN_BUCKETS and all(pq.ParquetFile(f).metadata.num_row_groups == 1 for f in files)
    tables = [pq.ParquetFile(f).read(["user_id", "shown_time"]).to_pylist() for f in files]
    users = [{r["user_id"] for r in rows} for rows in tables]
    assert sum(map(len, users)) == len(set.union(*users))
    assert all(rows == sorted(rows, key=lambda r: (r["user_id"], r["shown_time"])) for rows in tables)


def test_content_does_not_depend_on_partitions_and_without_items_categories_are_null(spark: SparkSession, lake: Lake) -> None:
    log = random_log(3, pages=40)
    digests = []
    for parts in (1, 7):
        rows = job.judged(frame(spark, "exposures", log["exposures"]).repartition(parts), 12)
        pages = job.pages(rows, catalogue.item_versions(frame(spark, "items", []), DAY))
        digests.append(pages.agg(*row_digest(pages, pages.columns)).first())
        assert pages.where("exists(category_id, c -> c is not null) or trigger_category_id is not null").count() == 0
    assert digests[0] == digests[1]


def test_a_page_of_ten_thousand_items_is_refused_with_a_reason_and_stops_above_the_limit(spark: SparkSession, lake: Lake) -> None:
    huge = [exposure("huge", "u", 5, f"i{n}", n) for n in range(10_000)]
    fill(spark, lake, {"exposures": [*huge, exposure("p", "u", 6, "i1", 0)]})
    result = job.build(spark, PLAN, lake, DAY, CONF)[0]
    assert result.counts == {"in": 10_001, "out": 1, "merged": 0, "reject.page_too_long": 10_000} and result.rows == 1
    row = lake.read(spark, "pages").first()
    assert row.page_id == "p" and all(row[c] == [] for c in CONTEXT_COLUMNS)
    strict = PLAN.model_copy(update={"quality": PLAN.quality.model_copy(update={"max_reject_share": 0.5})})
    lake.table("exposures").begin(DAY).commit(frame(spark, "exposures", huge), counts={}, inputs={"n": "2"})
    with pytest.raises(InputError, match=rf"10000 of 10000 rows .* page_too_long 10000; .* rejects --conf {CONF} --ds {DAY}"):
        job.build(spark, strict, lake, DAY, CONF)


def test_a_log_without_exposures_has_no_pages_and_an_empty_day_none(spark: SparkSession, lake: Lake) -> None:
    assert job.build(spark, recipe(), lake, DAY, CONF) == []
    result = job.build(spark, PLAN, lake, DAY, CONF)[0]
    assert (result.rows, result.counts) == (0, {"in": 0, "out": 0, "merged": 0})


@pytest.mark.drill
def test_late_behaviour_does_not_rewrite_old_pages_but_a_row_known_that_day_does(spark: SparkSession, lake: Lake) -> None:
    log = random_log(4, pages=20)
    fill(spark, lake, log)
    prepare(spark, lake)
    job.build(spark, PLAN, lake, DAY, CONF)
    for seconds, status in ((86_400, "skipped"), (86_399, "unchanged")):
        late = event("u1", -10_000, 7, event_id="late", available_time=at(seconds))
        fill(spark, lake, {"events": [*log["events"], late]})
        prepare(spark, lake)
        assert lake.table("movelines").day("2026-01-04").counts["in"] == 1 + sum(e["ds"] == "2026-01-04" for e in log["events"])
        assert job.build(spark, PLAN, lake, DAY, CONF)[0].status == status
