"""One scenario held out, on a small random log: nothing a model learns from is of it, and the arms are pooled and compared."""

import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.batch import TABLES
from feature_store.collate import flat
from feature_store.contracts import PAGES, PAIR_KINDS
from feature_store.encoding import encode_pages
from feature_store.errors import ModelError
from feature_store.home import lake_root
from feature_store.recipe import load_recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from feature_store.vocabulary import FIELDS, Vocabulary
from jobs import unseen
from jobs.train_models import train_model
from jobs.unseen import chosen, finished, prepare, run, unfinished
from jobs.unseen_report import METRICS, Pooled, alike_parts, collect, compare, pooled, table, written
from models.ccn import pair_counts
from models.registry import Registry, load
from models.serving import serving_pages
from tests.jobs.test_train_models import DAYS, RECIPE, day_of_pages, write_vocabulary
from tests.models.registered import IDS

SMALL: dict[str, Any] = {"dim": 4, "epochs": 1, "items_a_batch": 64}
ARMS = ["ccn", "din", "no pairs"]
LISTS = {"item": ("item_id", "moveline_item"), "category": ("category_id", "moveline_category", "visit_category"),
         "scene": ("moveline_scene", "visit_scene"), "action": ("moveline_action",)}


def day_of_two_scenarios(ds: str, seed: int) -> pa.Table:
    """Random pages; items i0 to i4 and category c2 occur in `results` alone."""
    rows = day_of_pages(ds, seed).to_pylist()
    for row in rows:
        if row["scenario"] == "feed":
            for name in ("item_id", "moveline_item"):
                row[name] = [i if i is None or i == "new" or int(i[1:]) > 4 else f"i{int(i[1:]) + 10}" for i in row[name]]
            row["item_id"] = [f"i{5 + n}" for n in range(len(row["item_id"]))]
            for name in ("category_id", "moveline_category", "visit_category"):
                row[name] = [None if c == "c2" else c for c in row[name]]
            row["trigger_item_id"], row["trigger_category_id"] = "i9", "c1"
    return pa.Table.from_pylist(rows, schema=PAGES.schema)


@pytest.fixture(scope="module")
def conf(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    from jobs import pairs

    root = tmp_path_factory.mktemp("unseen")
    path = root / "small.yaml"
    path.write_text(yaml.safe_dump({**RECIPE, "models": {"ccn": SMALL, "din": SMALL}}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(root / "var"))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        lake, recipe = Lake(lake_root("small")), load_recipe(path)
        for seed, ds in enumerate(DAYS):
            frame = spark.createDataFrame(day_of_two_scenarios(ds, seed), spark_schema(PAGES.schema))
            lake.table("pages").begin(ds).commit(frame, counts={}, inputs={"seed": str(seed)}, arranged=True)
            pairs.build(spark, recipe, lake, ds)
        write_vocabulary(spark, lake)
        yield path


@pytest.fixture(scope="module")
def prepared(conf: Path, spark: SparkSession) -> unseen.Prepared:
    return prepare(conf, spark=spark)


def test_the_rows_are_those_of_an_encoder_that_never_knew_the_scenario(prepared: unseen.Prepared) -> None:
    """Oracle: the raw pages of each side, encoded with a vocabulary of the ids of the raw training pages alone."""
    part, whole = prepared.held_out("results"), Vocabulary.load(prepared.all.vocabulary)
    raw = {row["page_id"]: row for row in Lake(lake_root("small")).table("pages").read_arrow(list(DAYS)).to_pylist()}
    train = part.sets["train"].read()
    assert {raw[page]["scenario"] for page in train["page_id"].to_pylist()} == {"feed"}
    assert {raw[page]["scenario"] for page in part.sets["test"].read(["page_id"])["page_id"].to_pylist()} == {"results"}
    held: dict[str, set[str | None]] = {field: set() for field in FIELDS}
    for page in train["page_id"].to_pylist():
        row = raw[page]
        for field, names in LISTS.items():
            held[field] |= {value for name in names for value in row[name]}
        held["item"].add(row["trigger_item_id"])
        held["category"].add(row["trigger_category_id"])
        held["scene"].add(row["scene"])
        held["scenario"].add(row["scenario"])
    rows = [row for row in whole.entries().to_pylist() if row["id"] in held[row["field"]]]
    words = Vocabulary(pa.Table.from_pylist(rows), whole.buckets)
    assert Vocabulary.load(part.vocabulary).digest == words.digest
    assert {"i0", "i1"} & set(whole.entries("item")["id"].to_pylist()) and "c2" not in words.entries("category")["id"].to_pylist()
    for role, own in part.sets.items():
        found = own.read()
        again = encode_pages(pa.Table.from_pylist([raw[p] for p in found["page_id"].to_pylist()], schema=PAGES.schema), words)
        for feature in (name for names in TABLES.values() for name in names):
            assert np.array_equal(flat(found, feature), flat(again, feature)), (role, feature)
        assert found["row"].to_pylist() == list(range(len(found)))
        own.verify()


def test_every_page_is_held_out_once_or_trained_on(prepared: unseen.Prepared) -> None:
    both = [prepared.held_out(scenario) for scenario in prepared.pages]
    assert set(prepared.pages) == set(IDS["scenario"]) and list(prepared.pages.values()) == sorted(prepared.pages.values())[::-1]
    for role in ("train", "validate", "test"):
        assert sum(part.sets[role].rows for part in both) == prepared.all.sets[role].rows
    assert {name: prepared.held_out(name).sets["test"].rows for name in prepared.pages} == prepared.pages


def test_pairs_in_the_loss_are_as_many_as_the_table_of_pairs_counts(prepared: unseen.Prepared) -> None:
    pairs = Lake(lake_root("small")).table("pairs").read_arrow([DAYS[2]], [*PAIR_KINDS])
    assert pair_counts(prepared.all.sets["test"]).tolist() == [sum(pairs[kind].to_pylist()) for kind in PAIR_KINDS]


def test_runs_are_done_once_pooled_compared_and_logged(conf: Path, prepared: unseen.Prepared,
                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe(conf)
    scenarios, arms = chosen(recipe, prepared, [], ARMS, 5)
    todo = unfinished(prepared, scenarios, arms, 2)
    assert len(todo) == 2 * len(ARMS) * 2 and todo[0] == (scenarios[0], "ccn", 1)
    results = [run(conf, prepared, *one) for one in todo if one[2] == 1]
    assert sum(r["pages"] for r in results) == len(ARMS) * prepared.all.sets["test"].rows
    monkeypatch.setattr(unseen, "launch", None)
    assert run(conf, prepared, *todo[0]) == results[0] and prepare(conf).pages == prepared.pages
    assert unfinished(prepared, scenarios, arms, 1) == [] and len(finished(prepared)) == 2 * len(ARMS)
    rows = collect(recipe, prepared)
    assert [row.arm for row in rows] == [*ARMS, "position", "popularity"]
    for row in rows:
        assert 0 <= row.metrics["page_gauc"].value <= 1 and row.metrics["page_gauc"].low <= row.metrics["page_gauc"].high
    table, plot = written(prepared)
    assert "2 held-out scenarios" in table.read_text() and "| feed |" in table.read_text() and plot.read_text().startswith("<svg")
    logged = mlflow.search_runs(experiment_names=["small"], filter_string="tags.recipe = 'small' and tags.unseen != ''")
    assert len(logged) == 1 and logged["metrics.ccn.page_gauc"][0] == pytest.approx(rows[0].metrics["page_gauc"].value)
    assert {f.path for f in Registry().client.list_artifacts(logged["run_id"][0])} >= {"unseen.md", "unseen.svg", "unseen.json"}


def test_the_pooled_scores_lie_with_their_pages(conf: Path, prepared: unseen.Prepared) -> None:
    found = pooled(prepared)
    tests = [prepared.held_out(name).sets["test"].read() for name in found.names]
    assert found.clicked.tolist() == [y for test in tests for y in flat(test, "clicked").tolist()]
    assert len(np.unique(found.page)) == sum(len(test) for test in tests)
    assert all(len(score) == len(found.page) and np.isfinite(score).all() for score in found.scores.values())
    users = [user for test in tests for user, items in zip(test["user_id"].to_pylist(), test["clicked"].to_pylist(), strict=True)
             for _ in items]
    assert len(np.unique(found.user)) == len(set(users)) and len(np.unique(found.group)) >= len(set(users))


def test_an_arm_that_is_not_through_yet_is_left_out(conf: Path, prepared: unseen.Prepared) -> None:
    (prepared.out("feed", "no pairs", 1) / "result.json").unlink()
    assert {arm for arm, _ in pooled(prepared).scores} == {"ccn", "din", "position", "popularity"}
    for arm in ("ccn", "din"):
        (prepared.out("results", arm, 1) / "result.json").unlink()
    with pytest.raises(ModelError, match="3 runs are done, and no arm is in all 2 scenarios; go on with `moveline unseen`"):
        pooled(prepared)


def test_what_there_is_not_is_named(conf: Path, prepared: unseen.Prepared) -> None:
    recipe = load_recipe(conf)
    with pytest.raises(ModelError, match=r"no arm 'dihn' for recipe small; the arms are ccn, din, no pairs, permuted labels"):
        chosen(recipe, prepared, [], ["dihn"], 3)
    with pytest.raises(ModelError, match=r"no test page is of scenario 'nowhere'; the scenarios are "):
        chosen(recipe, prepared, ["nowhere"], [], 3)
    assert chosen(recipe, prepared, [], [], 1) == ([next(iter(prepared.pages))], ["ccn", "din", "no pairs", "permuted labels"])


def test_ccn_is_trained_registered_and_served_as_it_was_judged(conf: Path, spark: SparkSession) -> None:
    made = train_model(conf, "ccn", spark=spark)
    assert (made.version.version, made.version.aliases) == (1, ("champion",)) and 0 <= made.metrics["test.auc"] <= 1
    assert "pair_weights" in Registry().client.get_run(made.version.run_id).data.params
    raw = Lake(lake_root("small")).table("pages").read_arrow([DAYS[2]])
    scores = load(made.version.uri).predict(serving_pages(raw))["scores"]
    assert [len(page) for page in scores] == [len(page) for page in raw["item_id"].to_pylist()]


def table_of_scores(**scores: list[list[float]]) -> Pooled:
    """Two pages of three items, of two users; the second item of each is clicked and none is like the trigger but the first."""
    page = np.array([0, 0, 0, 1, 1, 1])
    own = {(arm, seed): np.array(values) for arm, seeds in scores.items() for seed, values in enumerate(seeds, 1)}
    alike, clicked = np.array([True, False, False] * 2), np.array([0.0, 1.0, 0.0] * 2)
    return Pooled(page, page, page, np.zeros(6, np.int64), clicked, np.ones(6), alike, np.ones(6, bool), own, ["x"])


def test_metrics_and_differences_are_those_written_by_hand() -> None:
    rows = compare(table_of_scores(ccn=[[1, 2, 0, 1, 2, 0], [1, 2, 0, 2, 1, 0]], din=[[2, 1, 0, 2, 1, 0], [2, 1, 0, 2, 1, 0]]))
    by_arm = {row.arm: row for row in rows}
    assert by_arm["ccn"].metrics["page_gauc"].value == pytest.approx(0.875)
    assert by_arm["din"].metrics["page_gauc"].value == pytest.approx(0.5)
    assert by_arm["din"].apart["page_gauc"].value == pytest.approx(0.375) and by_arm["ccn"].seeds == 2
    assert by_arm["din"].apart["page_gauc"].low < 0.375 < by_arm["din"].apart["page_gauc"].high
    assert by_arm["ccn"].metrics["alike_5"].value == pytest.approx(1 / 3)


def test_a_metric_that_a_log_does_not_define_is_left_empty() -> None:
    """A log without categories has no item like its trigger, whatever the seeds."""
    found = table_of_scores(ccn=[[1, 2, 0, 1, 2, 0]] * 2, din=[[2, 1, 0, 2, 1, 0]] * 2)
    rows = compare(replace(found, triggered=np.zeros(6, bool)))
    own = {row.arm: row.apart for row in rows}["din"]
    assert math.isnan(own["alike_5"].value) and str(own["alike_5"]) == "undefined" and own["page_gauc"].value == pytest.approx(0.5)
    cells = [cell.strip() for cell in table(rows).splitlines()[-1].split("|")[1:-1]]
    assert cells[0] == "din" and cells[2 + METRICS.index("alike_5")] == "" and all(cells[2:6])


def test_the_share_like_the_trigger_is_that_of_the_best_counted_items() -> None:
    page = np.array([0, 0, 0, 1, 1])
    alike, counted = np.array([True, False, True, True, False]), np.array([True, True, False, True, True])
    score = np.array([0.1, 0.9, 1.0, 0.5, 0.5])
    found = alike_parts(1, page, alike, counted, score)
    assert (found.top.tolist(), found.bottom.tolist(), found.first.tolist()) == ([0.0, 1.0], [1.0, 1.0], [0, 3])
    assert alike_parts(5, page, alike, counted, score).value == pytest.approx(0.5)
    assert math.isnan(alike_parts(5, page, alike, np.zeros(5, bool), score).value)
