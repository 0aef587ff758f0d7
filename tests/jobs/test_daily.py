"""A day's tables in one application: order, skipping, late rows, and a log that does not say what was shown."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.contracts import CONTRACTS
from feature_store.home import lake_root
from feature_store.recipe import load_recipe
from feature_store.tables import Lake
from jobs.daily import NO_EXPOSURES, run_day
from jobs.run_job import run_tables
from tests.jobs.cluster import ROOT, cluster_env

ONE, TWO = "2026-01-05", "2026-01-06"
ALL = ["events", "exposures", "movelines", "visits", "vocabulary", "pages", "pairs", "pair_counts", "flows"]


def event(n: int, user: str, at: str, item: str, available: str = "") -> dict[str, object]:
    return {"event_id": f"e{n}", "user_id": user, "event_time": at, "seq": n, "available_time": available or at, "item_id": item}


def shown(page: str, user: str, at: str, items: str, clicked: str) -> list[dict[str, object]]:
    return [{"page_id": page, "user_id": user, "shown_time": at, "item_id": i, "position": n, "clicked": i in clicked}
            for n, i in enumerate(items)]


def put(data: Path, name: str, ds: str, rows: list[dict[str, object]]) -> None:
    folder = data / name / f"ds={ds}"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{len(list(folder.iterdir()))}.json").write_text("\n".join(map(json.dumps, rows)) + "\n")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    root = tmp_path / "raw"
    for day in (ONE, TWO):
        put(root, "events", day, [event(n, f"u{n % 2}", f"{day} 10:0{n}:00", f"i{n % 4}") for n in range(8)])
        put(root, "exposures", day, [*shown(f"p{day}", "u0", f"{day} 10:05:30", "abcd", "ab"),
                                     *shown(f"q{day}", "u1", f"{day} 11:00:00", "cda", "")])
    return root


def conf(tmp_path: Path, exposures: bool = True) -> Path:
    column = {c: c for c in ("user_id", "item_id")}
    times = {c: f"to_timestamp({c})" for c in ("event_time", "available_time")}
    source: dict[str, object] = {"inputs": {"events": {
        "path": "events/ds={ds}", "format": "json", "late_days": 1,
        "columns": "event_id string, user_id string, event_time string, seq long, available_time string, item_id string"}},
        "events": [{"from": "events", "columns": {**column, **times, "event_id": "event_id", "seq": "seq", "scene": "'home'",
                                                  "action": "'click'"}}]}
    if exposures:
        source["inputs"] |= {"exposures": {  # type: ignore[operator]
            "path": "exposures/ds={ds}", "format": "json",
            "columns": "page_id string, user_id string, shown_time string, item_id string, position int, clicked boolean"}}
        shown_at = "to_timestamp(shown_time)"
        source["exposures"] = [{"from": "exposures", "columns": {
            **column, "page_id": "page_id", "shown_time": shown_at, "label_time": f"{shown_at} + interval 1 hour",
            "scene": "'home'", "scenario": "'feed'", "position": "position", "viewed": "true", "clicked": "clicked"}}]
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump({"name": "tiny", "source": source}))
    return path


@pytest.mark.drill
def test_a_day_is_built_in_order_once_and_late_rows_reach_the_day_they_belong_to(
        spark: SparkSession, lake: Lake, tmp_path: Path, data: Path) -> None:
    path = conf(tmp_path)
    recipe = load_recipe(path)

    def run(ds: str) -> list[tuple[str, str, str]]:
        return [(r.table, r.ds, r.status) for r in run_day(spark, recipe, lake, ds, data, path)]

    assert run(ONE) == [(name, ONE, "built") for name in ALL]
    versions = {name: lake.table(name).version() for name in ALL}
    assert run(ONE) == [(name, ONE, "skipped") for name in ALL]
    assert {name: lake.table(name).version() for name in ALL} == versions
    pairs = lake.read(spark, "pairs", [ONE]).selectExpr("sum(co_click)", "sum(mono_click)", "sum(co_non_click)").first()
    assert tuple(pairs or ()) == (1, 4, 4)

    digest = {name: found.digest for name in ALL if (found := lake.table(name).day(ONE))}
    put(data, "events", TWO, [event(99, "u0", f"{ONE} 10:05:00", "late", f"{TWO} 03:00:00")])
    second = run(TWO)
    assert second[-len(ALL):] == [(name, TWO, "built") for name in ALL]
    late = second[:-len(ALL)]
    assert {ds for _, ds, _ in late} == {ONE} and ("events", ONE, "built") in late and ("movelines", ONE, "built") in late
    now = {name: found.digest for name in ALL if (found := lake.table(name).day(ONE))}
    assert {"events", "movelines", "flows"} <= {name for name in ALL if now[name] != digest[name]}
    # What a page of the first day knew of its user is cut by availability: the late row does not rewrite it.
    assert all(now[name] == digest[name] for name in ("exposures", "pages", "pairs", "pair_counts"))
    tokens = lake.read(spark, "movelines", [ONE]).where("user_id = 'u0'").selectExpr("array_contains(item_id, 'late')").first()
    assert tokens and tokens[0]


def labelled(tmp_path: Path, **more: object) -> Path:
    """The tiny recipe with clicks that are logged apart and may arrive a day after their page."""
    content = yaml.safe_load(conf(tmp_path).read_text())
    columns = ("page_id", "user_id", "item_id", "click_time")
    content["source"]["inputs"]["clicks"] = {"path": "clicks/ds={ds}", "format": "json", "late_days": 1,
                                             "columns": ", ".join(f"{c} string" for c in columns)}
    content["source"]["clicks"] = [{"from": "clicks", "columns": {**{c: c for c in columns},
                                                                  "click_time": "to_timestamp(click_time)"}}]
    path = tmp_path / "labelled.yaml"
    path.write_text(yaml.safe_dump({**content, "quality": {"max_reject_share": 0.7}, **more}))
    return path


def click(page: str, at: str, item: str) -> dict[str, object]:
    return {"page_id": page, "user_id": {"p": "u0", "q": "u1"}[page[0]], "item_id": item, "click_time": at}


def versions(lake: Lake) -> dict[str, int]:
    return {name: table.version() if (table := lake.table(name)).exists() else -1 for name in CONTRACTS}


def touched(lake: Lake, since: dict[str, int]) -> tuple[set[tuple[str, str]], set[tuple[str, str]]]:
    """Table and day of every commit since these versions, and of every file that they added or removed; rejects left out."""
    committed, files = set(), set()
    for name, version in since.items():
        log = Path(lake.table(name).path) / "_delta_log"
        for line in (line for f in log.glob("*.json") if int(f.stem) > version for line in f.read_text().splitlines()):
            action = json.loads(line)
            if "moveline.ds" in action.get("commitInfo", {}):
                committed.add((name, json.loads(action["commitInfo"]["moveline.ds"])))
            files |= {(name, action[kind]["path"][3:13]) for kind in ("add", "remove") if kind in action}
    return ({c for c in committed if c[0] != "rejects"}, {f for f in files if f[0] != "rejects"})


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_a_late_label_reaches_what_is_built_on_its_page_and_nothing_else_and_one_after_the_horizon_is_refused(
        spark: SparkSession, lake: Lake, tmp_path: Path, data: Path) -> None:
    path = labelled(tmp_path)
    three = "2026-01-07"
    put(data, "events", three, [event(n, f"u{n % 2}", f"{three} 10:0{n}:00", f"i{n % 4}") for n in range(8)])
    put(data, "exposures", three, shown(f"p{three}", "u0", f"{three} 10:05:30", "abcd", ""))
    put(data, "clicks", ONE, [click(f"p{ONE}", f"{ONE} 10:06:00", "c")])

    def run(ds: str, conf: Path = path) -> dict[tuple[str, str], str]:
        """What was built and why. No other day of any table is written, and no file of another day is touched."""
        before = versions(lake)
        results = list(run_day(spark, load_recipe(conf), lake, ds, data, conf))
        done = {(r.table, r.ds): r.because for r in results if r.status != "skipped"}
        committed, files = touched(lake, before)
        assert committed == set(done) and files <= committed
        return done

    def digests() -> dict[str, str]:
        return {name: found.digest for name in ALL if (found := lake.table(name).day(ONE))}

    assert run(ONE) == {(name, ONE): "" for name in ALL}
    first = digests()
    # On the second day it becomes known that an item of the first day's other page was clicked.
    put(data, "clicks", TWO, [click(f"q{ONE}", f"{ONE} 23:30:00", "d"), click(f"p{TWO}", f"{TWO} 10:06:00", "c")])
    second = run(TWO)
    assert {table: why for (table, ds), why in second.items() if ds == ONE} == {
        "exposures": "files of input clicks", **dict.fromkeys(("visits", "vocabulary", "pages"), f"exposures/{ONE}"),
        "pairs": f"pages/{ONE}", "pair_counts": f"pairs/{ONE}"}
    late = digests()
    # What was shown counts in a visit, not what was clicked: it is looked at again, and is the same.
    assert {name for name in ALL if late[name] != first[name]} == {"exposures", "pages", "pairs", "pair_counts"}
    found = lake.read(spark, "exposures", [ONE]).where("clicked").selectExpr("page_id", "item_id").collect()
    assert {(r.page_id[0], r.item_id) for r in found} == {("p", "a"), ("p", "b"), ("p", "c"), ("q", "d")}
    # On the third day two more, one of them clicked on the second: no run of the first day's pages reads this folder.
    put(data, "clicks", three, [click(f"q{ONE}", f"{ONE} 23:40:00", "c"), click(f"q{ONE}", f"{TWO} 00:10:00", "a"),
                                click(f"p{three}", f"{three} 10:06:00", "c"), click(f"p{TWO}", f"{TWO} 10:07:00", "d")])
    third = run(three)
    assert {table for table, ds in third if ds == TWO} >= {"exposures", "pages", "pairs"} and ONE not in {ds for _, ds in third}
    run(ONE)  # nor does it when it is asked to
    assert digests() == late
    refused = lake.read(spark, "rejects").collect()
    assert {(r.origin, r.ds, r.reason, r.row_key.split("/")[1]) for r in refused} == {
        ("clicks", three, "outside_day", "c"), ("clicks", three, "click_not_shown", "a")}
    counts = {ds: lake.table("exposures").day(ds).counts for ds in (ONE, TWO, three)}  # type: ignore[union-attr]
    assert {ds: own["click"] for ds, own in counts.items()} == {ONE: 2, TWO: 2, three: 1}  # with the rejects all that were logged

    changed = labelled(tmp_path, pairs={"max_a_page": 1})
    assert run(ONE, changed) == {("pairs", ONE): "settings (max_a_page)", ("pair_counts", ONE): f"pairs/{ONE}"}


def test_a_job_of_one_table_brings_the_day_before_up_to_date_too(
        spark: SparkSession, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the cluster profile runs them: one application a table, each for one day."""
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    monkeypatch.setattr(SparkSession, "stop", lambda _: None)
    path = conf(tmp_path, exposures=False)

    said: list[str] = []

    def run(ds: str) -> list[tuple[str, str, str]]:
        jobs = [run_tables(job, path, str(data), ds, said.append) for job in ("ingest", "movelines")]
        return [(r.table, r.ds, r.status) for results in jobs for r in results]

    assert run(ONE) == [("events", ONE, "built"), ("movelines", ONE, "built")]
    assert run(ONE) == [("events", ONE, "skipped"), ("movelines", ONE, "skipped")]
    put(data, "events", TWO, [event(99, "u0", f"{ONE} 10:05:00", "late", f"{TWO} 03:00:00")])
    said.clear()
    assert run(TWO) == [(table, ds, "built") for table in ("events", "movelines") for ds in (ONE, TWO)]
    assert [line.partition("because of ")[2] for line in said] == ["files of input events", "", f"events/{ONE}", ""]


def test_a_log_without_exposures_stops_after_movelines_visits_vocabulary_and_flows_and_says_so(
        spark: SparkSession, lake: Lake, tmp_path: Path, data: Path) -> None:
    path = conf(tmp_path, exposures=False)
    results = list(run_day(spark, load_recipe(path), lake, ONE, data, path))
    assert [r.table for r in results] == ["events", "movelines", "visits", "vocabulary", "pages", "flows"]
    assert {r.table for r in results if r.status != "built"} == {"pages"}
    assert next(r.note for r in results if r.table == "pages") == NO_EXPOSURES
    assert not lake.table("pages").exists() and not lake.table("pairs").exists()


def every_table(tmp_path: Path) -> Path:
    """The tiny recipe with items and users, and room for a rejected row."""
    content = yaml.safe_load(conf(tmp_path).read_text())
    content["quality"] = {"max_reject_share": 0.5}
    item = {"item_id": "item_id", "category_id": "'c'"}
    content["source"] |= {"items": [{"from": "events", "where": "seq < 4", "columns": item}],
                          "users": [{"from": "events", "where": "seq < 2", "columns": {"user_id": "user_id"}}]}
    path = tmp_path / "every.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.mark.drill
@pytest.mark.timeout(600)
def test_executors_in_processes_of_their_own_build_the_same_tables(
        spark: SparkSession, lake: Lake, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster of two workers on this machine: whatever is not sent to them as it must be fails here, and only here."""
    path = every_table(tmp_path)
    put(data, "events", ONE, [{"event_id": "bad", "event_time": f"{ONE} 12:00:00", "available_time": f"{ONE} 12:00:00", "seq": 9}])
    env = {**cluster_env(tmp_path), "MOVELINE_HOME": str(tmp_path)}
    arguments = ["daily", "--conf", str(path), "--data", str(data), "--ds", ONE]
    done = subprocess.run([sys.executable, "-m", "jobs.main", *arguments], cwd=ROOT, env=env, capture_output=True, text=True,
                          check=False)
    assert done.returncode == 0 and done.stderr == "", done.stdout + done.stderr[-3_000:]
    assert "WARN" in (tmp_path / "logs" / "spark.log").read_text()  # what Spark says is kept, and not in a user's way
    assert len(list((tmp_path / "spark" / "work").glob("*/*"))) == 2  # two executors were started

    list(run_day(spark, load_recipe(path), lake, ONE, data, path))
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    cluster = Lake(lake_root("tiny"))
    digests = {name: [lake_of.table(name).day(ONE) for lake_of in (lake, cluster)] for name in [*ALL, "items", "users"]}
    assert all(here and there and here.rows and here.digest == there.digest for here, there in digests.values()), digests
    bad = [lake_of.table("rejects").day({"ds": ONE, "origin": "events"}) for lake_of in (lake, cluster)]
    assert bad[0] and bad[1] and bad[0].rows == 1 and bad[0].digest == bad[1].digest
