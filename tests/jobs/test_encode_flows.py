"""Encoded flows from a real lake: none reaches beyond its window, none is lost, folds part the users."""

from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from pyspark.sql import SparkSession

from feature_store.encoded_set import EncodedSet
from feature_store.encoding import encode_flows
from feature_store.errors import TableError
from feature_store.folds import fold_of
from feature_store.negatives import Pool
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs.encode import encode_training
from jobs.windows import generator_windows, split_times
from tests.feature_store import encoded_pages
from tests.feature_store.encoded_flows import random_flows
from tests.jobs.naive import frame

DAYS = ("2026-01-02", "2026-01-03", "2026-01-04", "2026-01-05")


def recipe(**split: int) -> Recipe:
    """Events alone: flows need no exposures."""
    return Recipe.model_validate({
        "name": "tiny", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]}, "vocabulary_buckets": 4,
        "split": {"train_days": 3, "validate_hours": 6, **split}})


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, pa.Table]:
    root = tmp_path_factory.mktemp("flows")
    lake, parts = Lake(str(root / "lake")), []
    for number, ds in enumerate(DAYS):
        day = random_flows(240, number, users=40, start=datetime.fromisoformat(ds).replace(tzinfo=UTC), seconds=360)
        frame_of_day = spark.createDataFrame(day, spark_schema(day.schema))
        lake.table("flows").begin(ds).commit(frame_of_day, counts={}, inputs={}, arranged=True)
        parts.append(day)
    entries = [{**row, "ds": "2026-01-01"} for row in encoded_pages.vocabulary().entries().to_pylist()]
    lake.table("vocabulary").begin("2026-01-01").commit(frame(spark, "vocabulary", entries), counts={}, inputs={})
    return lake, pa.concat_tables(parts)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "home"))


def keys(found: EncodedSet) -> list[tuple[str, int]]:
    table = found.read(["user_id", "cut_time"])
    return sorted(zip(table["user_id"].to_pylist(), table["cut_time"].to_pylist(), strict=True))


def wanted(flows: pa.Table, start: str, end: str, users: set[str] | None = None) -> list[tuple[str, int]]:
    """The oracle: cut and every future in [start, end)."""
    first, last = (datetime.fromisoformat(t).replace(tzinfo=UTC) for t in (start, end))
    epoch = datetime(1970, 1, 1, tzinfo=UTC)
    return sorted((row["user_id"], (row["cut_time"] - epoch) // timedelta(microseconds=1)) for row in flows.to_pylist()
                  if first <= row["cut_time"] and max([row["cut_time"], *row["future_time"]]) < last
                  and (users is None or row["user_id"] in users))


def test_a_generator_with_its_own_days_ends_before_the_rows_that_read_it(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    lake, flows = made
    own = recipe(generator_days=2)
    sets, words = encode_training(spark, own, lake, DAYS[-1], "flows")
    assert keys(sets["train"]) == wanted(flows, "2026-01-02", "2026-01-03 18:00")
    assert keys(sets["validate"]) == wanted(flows, "2026-01-03 18:00", "2026-01-04")
    assert keys(sets["test"]) == wanted(flows, "2026-01-05", "2026-01-06")
    first_row = split_times(own, DAYS[-1]).train_start
    assert first_row == datetime(2026, 1, 4, tzinfo=UTC)
    assert max(sets["train"].last_time, sets["validate"].last_time) < first_row.timestamp() * 1e6 < sets["test"].first_time
    for one, (start, end) in zip(sets.values(), (("2026-01-02", "2026-01-03 18:00"), ("2026-01-03 18:00", "2026-01-04"),
                                                 ("2026-01-05", "2026-01-06")), strict=True):
        first, last = (datetime.fromisoformat(t).replace(tzinfo=UTC) for t in (start, end))
        inside = sum(first <= t < last for t in flows["cut_time"].to_pylist())
        assert dict(one.counts) == {"in": inside, "out": one.rows, "late_future": inside - one.rows} and one.rows < inside
        assert one.kind == "flows" and one.vocabulary == words.digest
    assert "2026-01-04" not in {d for s in sets.values() for d in s.days}


def test_rows_are_those_of_the_encoder_and_the_pool_counts_the_futures(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    lake, flows = made
    sets, words = encode_training(spark, recipe(), lake, DAYS[-1], "flows")
    skip = {"row": None, "user": None}
    plain = {(r["user_id"], r["cut_time"]): r | skip for r in encode_flows(flows, words).to_pylist()}
    rows = sets["train"].read().to_pylist()
    assert [r["row"] for r in rows] == list(range(len(rows))) and all(r | skip == plain[r["user_id"], r["cut_time"]] for r in rows)
    assert sets["train"].items == sum(len(r["future_item"]) for r in rows)
    pool = Pool.load(sets["train"].pool)
    assert dict(zip(pool.item.tolist(), pool.count.tolist(), strict=True)) == Counter(i for r in rows for i in r["future_item"])
    path = Path(sets["train"].pool)
    whole = path.read_bytes()
    path.write_bytes(whole + b" ")
    with pytest.raises(TableError, match=r"pool\.parquet: missing or changed since it was encoded"):
        sets["train"].verify()
    path.write_bytes(whole)


def test_each_fold_has_a_generator_that_never_saw_its_users(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    lake, flows = made
    users = sorted(set(flows["user_id"].to_pylist()))
    fold = dict(zip(users, fold_of(pa.array(users), 2).tolist(), strict=True))
    for number in (0, 1):
        sets, _ = encode_training(spark, recipe(generator_folds=2), lake, DAYS[-1], "flows", number)
        own, others = ({u for u in users if (fold[u] == number) == inside} for inside in (True, False))
        assert keys(sets["train"]) == wanted(flows, "2026-01-02", "2026-01-04 18:00", others)
        assert keys(sets["validate"]) == wanted(flows, "2026-01-04 18:00", "2026-01-05", others)
        assert keys(sets["test"]) == wanted(flows, "2026-01-05", "2026-01-06", own)
        counts = sets["train"].counts
        assert counts["in"] == counts["out"] + counts["late_future"] + counts["other_fold"] and counts["other_fold"] > 0


def test_the_windows_of_a_generator_without_days_or_folds_are_those_of_the_recipe() -> None:
    plain = recipe()
    assert [(w.start, w.end) for w in generator_windows(plain, DAYS[-1])] == [
        (w.start, w.end) for w in split_times(plain, DAYS[-1]).windows]


@pytest.mark.parametrize(("split", "message"), [
    ({"generator_days": 3}, "`generator_days` must be fewer than `train_days`"),
    ({"generator_days": 1, "generator_folds": 2}, "not both"),
])
def test_a_split_that_leaves_nothing_or_says_it_twice_is_refused(split: dict[str, int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        recipe(**split)
