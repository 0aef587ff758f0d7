"""The recipes of the three real logs give the numbers that were counted in the raw files by other means.

In one file, so that tests in several processes ingest each log once.
"""

import hashlib
import json
from pathlib import Path

import pandas as pd
import pytest
from pyspark.sql import Column, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import PAIR_KINDS
from feature_store.recipe import Pages, load_recipe
from feature_store.tables import Lake
from jobs import pages, pairs
from jobs.daily import NO_EXPOSURES, run_day
from jobs.day import DayResult
from jobs.ingest import build
from tests.jobs.conftest import Ingested

CONF = Path(__file__).resolve().parents[2] / "conf"
pytestmark = pytest.mark.real


def ingest(spark: SparkSession, lake: Lake, name: str, data: Path, days: list[str]) -> list[DayResult]:
    path = str(CONF / f"{name}.yaml")
    return [r for ds in days for r in build(spark, load_recipe(path), lake, ds, str(data / name), path)]


def total(results: list[DayResult], table: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for result in results:
        for key, n in result.counts.items() if result.table == table else ():
            counts[key] = counts.get(key, 0) + n
    return counts


def test_trivago(spark: SparkSession, trivago: Ingested, real_data: Path) -> None:
    lake, results = trivago.lake, trivago.results
    assert total(results, "events") == {"in": 100_003, "out": 100_003}
    assert total(results, "exposures") == {"in": 211_897 + 13_597, "out": 211_897, "click": 13_596, "reject.click_not_shown": 1}
    raw = spark.read.parquet(str(real_data / "trivago" / "trivago_val_100k.parquet")).where("action_type = 'clickout item'")
    assert raw.agg(F.count("*"), F.sum(F.size(F.split("impressions", "[|]")))).first() == (13_597, 312_539)
    events = lake.read(spark, "events").agg(F.countDistinct("user_id"), F.countDistinct("session_id"), F.countDistinct("event_id"))
    assert tuple(events.first() or ()) == (6_593, 7_612, 100_003)
    pages = lake.read(spark, "exposures").groupBy("page_id").agg(
        F.count("*").alias("n"), F.sum(F.col("clicked").cast("int")).alias("k"), F.countDistinct("shown_time").alias("times"),
        F.countDistinct("trigger_item_id").alias("triggers"), F.min(F.col("label_time") - F.col("shown_time")).alias("wait"))
    found = pages.selectExpr("count(*) pages", "count_if(k >= 2) many", "sum(k * (k - 1) div 2) co", "sum(k * (n - k)) mono",
                             "sum((n - k) * (n - k - 1) div 2) non", "max(times) times", "max(triggers) triggers",
                             "min(wait) >= interval 0 seconds ordered").first()
    assert tuple(found or ()) == (9_267, 1_814, 4_838, 257_230, 2_170_635, 1, 1, True)
    [reject] = lake.read(spark, "rejects").where("origin != 'pages'").collect()
    assert (reject.origin, reject.reason) == ("clicks", "click_not_shown")
    click = json.loads(reject.row)
    page = lake.read(spark, "exposures").where(F.col("page_id") == click["page_id"])
    assert page.count() > 1 and page.where("clicked").count() == 0 and page.where(F.col("item_id") == click["item_id"]).count() == 0


def test_trivago_shows_and_triggers_follow_the_proxy(spark: SparkSession, trivago: Ingested, real_data: Path) -> None:
    raw = pd.read_parquet(real_data / "trivago" / "trivago_val_100k.parquet").sort_values(["session_id", "timestamp", "step"])
    shown = trivago.lake.read(spark, "exposures").groupBy("page_id").agg(
        F.min(F.unix_timestamp("shown_time")).alias("shown"), F.first("trigger_item_id").alias("trigger"))
    keys = {r.page_id: (r.shown, r.trigger) for r in shown.collect()}
    checked = 0
    for session, rows in list(raw.groupby("session_id"))[:1_500]:
        walk = list(rows[["timestamp", "action_type", "reference", "impressions"]].itertuples(index=False, name=None))
        seen: set[str] = set()
        for n, (_, action, _, listed) in enumerate(walk):
            page = hashlib.md5(f"{session}:{listed}".encode()).hexdigest()
            if action != "clickout item" or page in seen:
                continue
            seen.add(page)
            changes = [t for t, a, _, _ in walk[:n]
                       if a.startswith("search for") or a in ("filter selection", "change of sort order")]
            time = changes[-1] if changes else walk[0][0]
            items = [r for t, a, r, _ in walk if t < time and r.isdigit()
                     and (a.startswith("interaction item") or a in ("clickout item", "search for item"))]
            assert keys[page] == (time, items[-1] if items and changes else None), (session, page)
            checked += 1
    assert checked > 500


def test_taobao_with_all_the_days_that_occur(spark: SparkSession, lake: Lake, real_data: Path) -> None:
    days = ["2017-09-11", "2017-11-24", *(f"2017-11-{d}" for d in range(25, 31)), *(f"2017-12-0{d}" for d in range(1, 4))]
    results = ingest(spark, lake, "taobao", real_data, days)
    assert total(results, "events") == {"in": 4_321, "out": 4_321}
    events = lake.read(spark, "events")
    counts = events.agg(F.countDistinct("user_id"), F.countDistinct("item_id"), F.countDistinct("category_id")).first()
    assert tuple(counts or ()) == (43, 3_276, 567)
    actions = {r.action: r["count"] for r in events.groupBy("action").count().collect()}
    assert actions == {"pv": 3_926, "cart": 190, "fav": 128, "buy": 77}


def test_a_day_of_taobao_stops_after_flows_and_says_so(spark: SparkSession, lake: Lake, real_data: Path) -> None:
    path = CONF / "taobao.yaml"
    results = {r.table: r for r in run_day(spark, load_recipe(path), lake, "2017-11-26", str(real_data / "taobao"), path)}
    assert list(results) == ["events", "movelines", "visits", "vocabulary", "pages", "flows"]
    assert results.pop("pages").note == NO_EXPOSURES and not lake.table("pages").exists()
    assert all(result.rows for result in results.values())


def test_ebnerd(spark: SparkSession, ebnerd: Ingested) -> None:
    lake, results = ebnerd.lake, ebnerd.results
    assert total(results, "exposures")["click"] == 1_047 and "reject" not in str(total(results, "exposures"))
    exposures = lake.read(spark, "exposures")
    pages = exposures.groupBy("page_id", "user_id").agg(
        F.count("*").alias("n"), F.sum(F.col("clicked").cast("int")).alias("k"), F.max("trigger_item_id").alias("trigger"))
    found = pages.selectExpr("count(*)", "count(distinct user_id)", "count(trigger)", "sum(k * (k - 1) div 2)", "sum(k * (n - k))",
                             "sum((n - k) * (n - k - 1) div 2)").first()
    assert tuple(found or ()) == (1_046, 38, 306, 1, 9_808, 81_454)
    assert {r.action for r in lake.read(spark, "events").select("action").distinct().collect()} == {"view", "read", "click"}


def sampled(kind: str) -> Column:
    # One parameter only: Spark hands a second one the element's index.
    return F.sum(F.size(F.filter("kind", lambda k: k == kind)))


@pytest.mark.parametrize(("name", "n_pages", "several_clicks", "counts"), [
    ("trivago", 9_267, 1_814, (4_838, 2_170_635, 257_230)),
    ("ebnerd", 1_046, 1, (1, 81_454, 9_808)),
])
def test_pair_counts_of_a_real_log_are_exact(spark: SparkSession, request: pytest.FixtureRequest, name: str, n_pages: int,
                                             several_clicks: int, counts: tuple[int, ...]) -> None:
    log = request.getfixturevalue(name)
    recipe, lake = log.recipe.model_copy(update={"pages": Pages(cuts=["at_show"])}), log.lake  # what pairs are made from
    for ds in log.days:
        pages.build(spark, recipe, lake, ds, f"conf/{recipe.name}.yaml")
        pairs.build(spark, recipe, lake, ds)
    rows = lake.read(spark, "pairs")
    found = rows.agg(F.count("*"), F.sum((F.col("n_clicked") > 1).cast("int")), *(F.sum(k) for k in PAIR_KINDS)).first()
    assert tuple(found or ()) == (n_pages, several_clicks, *counts)
    kept = rows.agg(*(sampled(kind) for kind in PAIR_KINDS)).first()
    most = rows.agg(*(F.sum(F.least(F.col(k), F.lit(recipe.pairs.max_a_page))) for k in PAIR_KINDS)).first()
    assert tuple(kept or ()) == tuple(most or ())
    weighted = lake.read(spark, "pair_counts").agg(*(F.sum(k) for k in PAIR_KINDS)).first()
    assert tuple(weighted or ()) == pytest.approx(counts)
