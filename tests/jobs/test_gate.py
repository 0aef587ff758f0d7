"""The gate on real versions: din artifacts in a real MLflow, pages in a real lake whose clicks follow one of them."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.contracts import PAGES
from feature_store.errors import ModelError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs import cli
from jobs.gate import DECISION, WAITS, gate, slice_for, told, waiting
from models import ledger
from models.artifact import Weights, save_artifact
from models.catalog import model_class
from models.embeddings import capacities
from models.ranker import INPUT, Ranker
from models.registry import CHAMPION, Candidate, Registry, Version
from models.serving import PAGE_COLUMNS
from tests.models.registered import IDS, example, raw_pages, vocabulary

DAYS = ("2026-05-01", "2026-05-02", "2026-05-03")
LIMITS = {"mode": "enabled", "min_users": 5, "max_gauc_loss": 0.05, "max_ndcg_loss": 0.05, "max_calibration_error": 1,
          "max_bias": 50}
SOURCE = {"inputs": {"log": {"path": "log/ds={ds}"}}, "events": [{"from": "log", "columns": {}}],
          "exposures": [{"from": "log", "columns": {}}]}


def recipe(late_days: int = 0, **limits: object) -> Recipe:
    source = {**SOURCE, "inputs": {"log": {"path": "log/ds={ds}", "late_days": late_days}}}
    return Recipe.model_validate({"name": "small", "source": source, "gate": {**LIMITS, **limits}, "vocabulary_buckets": 4})


def made(folder: Path, seed: int) -> Path:
    """An untrained din whose scores differ a lot from item to item."""
    words = vocabulary()
    folder.mkdir(parents=True)
    words.save(folder / "words.parquet")
    model = model_class("din").build({"seed": seed}, capacities({field: words.rows(field) for field in IDS}))
    state = {name: tensor * (8 if "embeddings" in name else 1) for name, tensor in model.state_dict().items()}
    return save_artifact(folder / "artifact", model, Weights(state, {}), folder / "words.parquet")


def day_of_pages(ds: str, seed: int, best: Ranker, open_pages: int = 0) -> pa.Table:
    """Sixty pages of twenty users; on each the item that `best` scores highest was clicked. The last ones' labels stay open."""
    rows = [row for row in raw_pages(80, seed).to_pylist() if len(row["item_id"]) > 1][:60]
    start = datetime.fromisoformat(ds).replace(tzinfo=UTC)
    for n, row in enumerate(rows):
        shown = start + timedelta(minutes=n)
        closed = shown + (timedelta(days=2) if n >= len(rows) - open_pages else timedelta(hours=1))
        row |= {"page_id": f"{ds}-{n}", "user_id": f"u{n % 20}", "ds": ds, "shown_time": shown, "label_time": closed}
    table = pa.Table.from_pylist(rows, schema=PAGES.schema)
    scores, at = best.scores(best.encoded(table)), 0
    for row in rows:
        own = scores[at:at + len(row["item_id"])]
        at += len(own)
        row["clicked"] = [bool(i == np.argmax(own)) for i in range(len(own))]
    return pa.Table.from_pylist(rows, schema=PAGES.schema)


def commit_pages(spark: SparkSession, lake: Lake, ds: str, pages: pa.Table) -> None:
    frame = spark.createDataFrame(pages.to_pylist(), spark_schema(PAGES.schema))
    lake.table("pages").begin(ds).commit(frame, counts={}, inputs={}, arranged=True)


@contextmanager
def home_at(folder: Path) -> Iterator[Path]:
    """A state folder of its own, with its registry and lakes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MOVELINE_LAKE", raising=False)
        yield folder


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with home_at(tmp_path_factory.mktemp("gate")) as folder:
        yield folder


@pytest.fixture(scope="module")
def artifacts(root: Path) -> tuple[Path, Path]:
    """Two models: clicks follow the first."""
    return made(root / "good", 1), made(root / "bad", 2)


@pytest.fixture(scope="module")
def lake(root: Path, spark: SparkSession, artifacts: tuple[Path, Path]) -> Lake:
    found, best = Lake(lake_root("small")), Ranker(artifacts[0])
    for n, ds in enumerate(DAYS):
        commit_pages(spark, found, ds, day_of_pages(ds, n, best, open_pages=20 if n == 2 else 0))
    return found


@pytest.fixture(scope="module")
def versions(artifacts: tuple[Path, Path]) -> dict[str, Version]:
    """The two models as versions of small-din, both tested on the first day."""
    tags = {"day": DAYS[0], "days": json.dumps({"train": [], "validate": [], "test": [DAYS[0]]})}
    registry = Registry()
    return {name: registry.register(Candidate("small-din", "small", folder, name, example(), tags=tags))
            for name, folder in zip(("good", "bad"), artifacts, strict=True)}


def test_a_worse_version_is_refused_and_the_champion_stays(lake: Lake, versions: dict[str, Version]) -> None:
    registry = Registry()
    first = gate(recipe(), lake, versions["good"], registry)
    assert first.aliases == (CHAMPION,) and first.tags[DECISION] == "passed" and first.tags["gate.against"] == "(none)"
    refused = gate(recipe(), lake, versions["bad"], registry)
    champion = registry.by_alias("small-din")
    assert refused.aliases == () and champion is not None and champion.version == first.version
    assert refused.tags[DECISION].startswith("refused: gauc may lose more than 0.05: -0.")
    assert refused.tags["gate.against"] == first.uri and refused.tags["gate.mode"] == "enabled"
    assert refused.tags["gate.days"] == DAYS[1] and "the first closed days after 2026-05-01" in refused.tags["gate.slice"]
    numbers = registry.metrics(refused)
    assert numbers["gate.gauc.champion"] > 0.9 and numbers["gate.gauc.difference.high"] < -0.05 and numbers["gate.pages"] == 60
    assert "refused: gauc" in told(refused, numbers) and "gauc -0." in told(refused, numbers)
    assert [(e.to_version, e.reason) for e in ledger.read(model="small-din")] == [
        (first.version, "gate passed; the first closed days after 2026-05-01, the last day either version knows (2026-05-02)")]


def test_a_dry_run_writes_down_that_it_would_have_refused_and_a_better_version_takes_the_alias_back(
        lake: Lake, versions: dict[str, Version]) -> None:
    registry = Registry()
    gate(recipe(), lake, versions["good"], registry)
    promoted = gate(recipe(mode="dry_run"), lake, versions["bad"], registry)
    assert promoted.aliases == (CHAMPION,) and promoted.tags[DECISION].startswith("refused: gauc")
    assert ledger.read(model="small-din")[-1].reason.startswith("gate not enabled, it refused: gauc may lose")
    back = gate(recipe(), lake, versions["good"], registry)
    assert back.aliases == (CHAMPION,) and back.tags["gate.against"] == promoted.uri
    assert ledger.read(model="small-din")[-1].numbers["gauc.difference.low"] > 0.05
    assert gate(recipe(mode="disabled"), lake, versions["bad"], registry).tags[DECISION] == "the gate is disabled"


def test_days_are_compared_on_that_are_closed_and_after_both_versions(lake: Lake) -> None:
    def version(day: str, test: str) -> Version:
        return Version("small-din", 1, "", "", (), {"day": day, "days": json.dumps({"test": [test]})})

    one, two, three = (version(day, day) for day in DAYS)
    assert slice_for(recipe(), lake, one, None).days == (DAYS[1],)
    # The third day has pages whose label is still open, and no other day is after both.
    for pair in ((one, two), (two, one), (two, None)):
        found = slice_for(recipe(days=2), lake, *pair)
        assert found.days == (DAYS[1],) and found.why.startswith("no day after 2026-05-02 is closed yet: the later test days")
    assert slice_for(recipe(), lake, three, one).days == (DAYS[2],)
    assert slice_for(recipe(), lake, version(DAYS[2], DAYS[1]), None).days == DAYS[1:]
    # Rows of the second day may still arrive with the folder of the day after the next.
    assert slice_for(recipe(late_days=1), lake, one, None).days == (DAYS[1],)
    assert slice_for(recipe(late_days=2), lake, one, None).days == (DAYS[0],)
    with pytest.raises(ModelError, match=r"models:/small-din/1 does not say what it was trained on \(it has no tag day\)"):
        slice_for(recipe(), lake, replace(one, tags={}), None)


def test_open_pages_are_left_out_and_a_ranker_reads_what_a_served_model_does(lake: Lake, artifacts: tuple[Path, Path]) -> None:
    from jobs.gate import scored

    late = Version("small-din", 1, "", "", (), {"day": DAYS[2], "days": json.dumps({"test": [DAYS[2]]})})
    shown, _ = scored(lake, slice_for(recipe(), lake, late, None), [Ranker(artifacts[0])])
    assert shown.counts()["pages"] == 40
    assert set(INPUT) == set(PAGE_COLUMNS)


def test_a_version_waits_for_a_closed_day_after_its_training_and_is_then_decided_about(
        lake: Lake, spark: SparkSession, artifacts: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    registry, content = Registry(), {"name": "patient", "source": SOURCE, "models": {"din": {}}, "vocabulary_buckets": 4}
    content["gate"] = {**LIMITS, "wait": True}
    patient, path, own = Recipe.model_validate(content), tmp_path / "patient.yaml", Lake(lake_root("patient"))
    path.write_text(yaml.safe_dump(content))
    cli._load_commands()
    for n, ds in enumerate(DAYS[:2]):
        commit_pages(spark, own, ds, day_of_pages(ds, n, Ranker(artifacts[0])))

    def version(folder: Path, fingerprint: str, day: str) -> Version:
        tags = {"day": day, "days": json.dumps({"train": [], "validate": [], "test": [day]})}
        return registry.register(Candidate("patient-din", "patient", folder, fingerprint, example(), tags=tags))

    # Nobody stands against a first version: it is not left waiting.
    first = gate(patient, own, version(artifacts[0], "first", DAYS[1]), registry)
    assert first.aliases == (CHAMPION,) and first.tags[DECISION] == "passed"
    second = gate(patient, own, version(artifacts[1], "second", DAYS[1]), registry)
    assert second.aliases == () and second.tags[DECISION] == f"{WAITS}no day after both versions is closed yet"
    assert registry.by_alias("patient-din") == registry.current(first) and len(ledger.read(model="patient-din")) == 1
    assert waiting(patient, registry) == [second]

    commit_pages(spark, own, DAYS[2], day_of_pages(DAYS[2], 2, Ranker(artifacts[0])))
    cli.app(["gate", "--conf", str(path), "--json"], standalone_mode=False)
    [found] = json.loads(capsys.readouterr().out)
    assert found["version"] == second.version and found["gate.days"] == DAYS[2] and found[DECISION].startswith("refused: gauc")
    assert waiting(patient, registry) == []
    cli.app(["gate", "--conf", str(path)], standalone_mode=False)
    assert capsys.readouterr().out == "no version waits\n"
