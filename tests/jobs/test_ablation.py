"""The ablation of amen on a small random log: arms differ in what they say they do, finished ones are skipped."""

import json
import math
from pathlib import Path

import mlflow
import numpy as np
import pytest
from pyspark.sql import SparkSession

from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError
from feature_store.home import lake_root
from feature_store.recipe import load_recipe
from feature_store.tables import Lake
from feature_store.vocabulary import Vocabulary
from jobs import ablation, comparison
from jobs.ablation import arms_of, compare, finished, prepare, ready, run_arm, shared, unfinished
from jobs.ablation_report import collect, written
from jobs.at_once import each
from jobs.futures import oracle_flow
from models.generator import Generator
from models.registry import Registry
from tests.jobs.test_train_generators import AMEN, NIF, RANKED, conf, root  # noqa: F401

ARMS = ["amen", "no NIF", "shuffled flow", "future oracle", "no diversity"]


@pytest.fixture(scope="module")
def recipe(root: Path) -> Path:  # noqa: F811
    return conf(root, "small", RANKED, {"generator_folds": 2}, {"nif": NIF, "amen": AMEN, "din": {"dim": 4, "epochs": 1}})


@pytest.fixture(scope="module")
def prepared(recipe: Path, spark: SparkSession) -> ablation.Prepared:
    return prepare(recipe, spark=spark)


def test_every_arm_and_seed_is_trained_once_and_compared(recipe: Path, prepared: ablation.Prepared,
                                                         monkeypatch: pytest.MonkeyPatch) -> None:
    own = load_recipe(recipe)
    assert unfinished(own, prepared, ARMS, 2)[:6] == [*((arm, 1) for arm in ARMS), ("amen", 2)]
    first = shared(own, prepared, unfinished(own, prepared, ARMS, 1))
    assert first == [("amen", 1), ("no diversity", 1)]
    for run in first:
        ready(recipe, prepared, *run)
    assert shared(own, prepared, unfinished(own, prepared, ARMS, 1)) == []
    made = {path: path.stat().st_mtime_ns for path in prepared.folder.glob("generators/**/*.safetensors")}
    found = {r["arm"]: r for r in each(run_arm, [(recipe, prepared, arm, 1) for arm in ARMS], 2)}
    results = [found[arm] for arm in ARMS]
    assert made == {path: path.stat().st_mtime_ns for path in prepared.folder.glob("generators/**/*.safetensors")}
    assert len(list((prepared.folder / "generators").iterdir())) == 2
    assert {(r["arm"], r["seed"]) for r in results} == {(arm, 1) for arm in ARMS}
    assert len({json.dumps(r["metrics"]) for r in results}) == len(ARMS)
    monkeypatch.setattr(ablation, "launch", None)
    assert run_arm(recipe, prepared, "no NIF", 1) == results[1]
    assert prepare(recipe) == prepared  # without Spark: it was prepared before
    assert unfinished(own, prepared, ARMS, 1) == [] and len(finished(prepared)) == len(ARMS)
    rows = collect(own, prepared)
    assert [row.arm for row in rows] == [arm for arm in ablation.ARMS if arm in ARMS]
    table, plot = written(prepared)
    assert table.read_text().count("\n") == 2 + len(ARMS) and plot.read_text().startswith("<svg")
    run = mlflow.search_runs(experiment_names=["small"], filter_string="tags.recipe = 'small' and tags.ablation != ''")
    assert len(run) == 1
    assert {f.path for f in Registry().client.list_artifacts(run["run_id"][0])} >= {"ablation.md", "ablation.svg", "ablation.json"}


def test_the_oracle_holds_the_vectors_of_what_really_came_next_but_for_the_page_itself(prepared: ablation.Prepared) -> None:
    folder = next((prepared.folder / "generators").iterdir(), None)
    assert folder is not None
    pages: EncodedSet = prepared.model.sets["test"]
    frozen = Generator(folder / "model", Vocabulary.load(prepared.model.vocabulary))
    found = oracle_flow(pages, frozen, prepared.futures["test"])
    assert found.shape == (pages.rows, 3, 8)
    known = np.abs(found).sum(2) > 0
    assert np.abs(np.linalg.norm(found[known], axis=1) - 1).max() < 1e-5
    lake = Lake(lake_root("small"))
    raw = {row["page_id"]: row for row in lake.table("pages").read_arrow(["2026-05-03"]).to_pylist()}
    walks = {row["user_id"]: row for row in lake.table("movelines").read_arrow(["2026-05-03"]).to_pylist()}
    of_the_page = 0
    for row, page_id in enumerate(pages.read(["page_id"])["page_id"].to_pylist()):
        walk, page = walks[raw[page_id]["user_id"]], raw[page_id]
        ahead = [item for time, item in zip(walk["event_time"], walk["item_id"], strict=True)
                 if time >= page["cut_time"] and item is not None]
        others = [item for item in ahead if item not in page["item_id"]]
        of_the_page += len(ahead) - len(others)
        assert known[row].sum() == min(len(others), 3)
    assert of_the_page > 0


def test_the_arms_are_those_that_the_rows_allow_and_others_are_refused(recipe: Path, prepared: ablation.Prepared) -> None:
    own = load_recipe(recipe)
    assert {"K = 1", "K = 8"} <= set(arms_of(own)) and "K = 16" not in arms_of(own) and "din" in arms_of(own)
    with pytest.raises(ModelError, match="no arm 'no such' for recipe small; the arms are amen, din, no NIF"):
        unfinished(own, prepared, ["no such"], 1)
    with pytest.raises(ModelError, match="there is no ablation of 'din'"):
        prepare(recipe, model="din")


def test_differences_are_paired_by_seed_and_by_user() -> None:
    def result(arm: str, seed: int, gauc: float, draws: tuple[float, ...] = (0.5, 0.5, 0.5)) -> dict:
        return {"arm": arm, "seed": seed, "metrics": {f"test.{name}": gauc for name in ablation.METRICS},
                "draws": {name: list(draws) for name in ablation.METRICS}}

    rows = compare([result("amen", 1, 0.6), result("amen", 2, 0.8), result("no NIF", 1, 0.5), result("no NIF", 2, 0.6),
                    result("din", 2, 0.4)])
    by_arm = {row.arm: row for row in rows}
    own = by_arm["no NIF"].apart["gauc"]
    half = 12.706 * math.sqrt(0.005) / math.sqrt(2)
    assert (own.value, own.low, own.high) == pytest.approx((0.15, 0.15 - half, 0.15 + half))
    assert by_arm["din"].apart["gauc"].value == pytest.approx(0.4) and math.isnan(by_arm["din"].apart["gauc"].low)
    same = {s: result("amen", s, 0.6, (0.5, 0.6, 0.7)) for s in (1, 2)}
    other = {s: result("din", s, 0.5, (0.4, 0.4, 0.4)) for s in (1, 2)}
    own = comparison.apart(same, other, "gauc")
    assert (own.low, own.high) == pytest.approx((0.1 - 1.96 * 0.1, 0.1 + 1.96 * 0.1))
