"""Encoded sets from a real lake: nothing lost, split by time, cached."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql import SparkSession

from feature_store import batch, encoding, vocabulary
from feature_store.encoded_set import EncodedSet
from feature_store.errors import TableError
from feature_store.recipe import Recipe
from feature_store.session import spark_schema
from feature_store.tables import Lake
from jobs import encode as job
from jobs.encode import encode, encode_training
from jobs.windows import Window, split_times
from tests.feature_store import encoded_pages
from tests.jobs.naive import frame

RECIPE = Recipe.model_validate({"name": "tiny", "source": {"inputs": {}, "events": [{"from": "a", "columns": {}}]},
                                "split": {"train_days": 2, "test_days": 1, "validate_hours": 6}, "vocabulary_buckets": 4})
DAYS = ("2026-01-02", "2026-01-03", "2026-01-04")


@pytest.fixture(scope="module")
def made(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, pa.Table]:
    lake, all_pages = Lake(str(tmp_path_factory.mktemp("lake"))), []
    for number, ds in enumerate(DAYS):
        start = datetime.fromisoformat(ds).replace(tzinfo=UTC)
        rows = encoded_pages.random_pages(240, seed=number, users=40).to_pylist()
        for n, row in enumerate(rows):
            row["cut_time"] = row["shown_time"] = start + timedelta(minutes=6 * n)
            row.update(page_id=f"{ds} {n:03d}", label_time=row["cut_time"] + timedelta(hours=1), ds=ds)
        pages = pa.Table.from_pylist(rows, schema=encoded_pages.PAGES.schema)
        day = spark.createDataFrame(pages, spark_schema(pages.schema))
        lake.table("pages").begin(ds).commit(day, counts={}, inputs={}, arranged=True)
        all_pages.append(pages)
    entries = [{**row, "ds": "2026-01-01"} for row in encoded_pages.vocabulary().entries().to_pylist()]
    lake.table("vocabulary").begin("2026-01-01").commit(frame(spark, "vocabulary", entries), counts={}, inputs={})
    return lake, pa.concat_tables(all_pages)


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "home"))


def test_pages_with_an_open_label_are_left_out_and_no_other_is_lost(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    lake, pages = made
    sets, words = encode_training(spark, RECIPE, lake, DAYS[-1])
    found = {name: s.read() for name, s in sets.items()}
    cuts = {r["page_id"]: (r["cut_time"], r["label_time"]) for r in pages.to_pylist()}
    validate, test = datetime(2026, 1, 3, 18, tzinfo=UTC), datetime(2026, 1, 4, tzinfo=UTC)
    assert set(found["train"]["page_id"].to_pylist()) == {p for p, (_, label) in cuts.items() if label < validate}
    late = {p for p, (cut, label) in cuts.items() if cut >= validate and label < test}
    assert set(found["validate"]["page_id"].to_pylist()) == late
    assert set(found["test"]["page_id"].to_pylist()) == {p for p, (cut, _) in cuts.items() if cut >= test}
    assert {n: dict(s.counts) for n, s in sets.items()} == {
        "train": {"in": 420, "out": 410, "open_label": 10}, "validate": {"in": 60, "out": 50, "open_label": 10},
        "test": {"in": 240, "out": 240, "open_label": 0}}
    for name, one in sets.items():
        one.verify()
        assert (one.rows, one.items) == (len(found[name]), sum(found[name]["n_items"].to_pylist()))
        assert sum(pq.read_metadata(p).num_rows for p in one.paths) == one.rows
        assert found[name]["row"].to_pylist() == list(range(one.rows))
        numbers = set(zip(found[name]["user"].to_pylist(), found[name]["user_id"].to_pylist(), strict=True))
        assert sorted(n for n, _ in numbers) == list(range(len({u for _, u in numbers})))
        assert one.vocabulary == words.digest and one.table_rows["item"] == words.rows("item")


def test_rows_are_those_of_the_encoder_and_no_row_group_cuts_a_user(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    lake, pages = made
    sets, words = encode_training(spark, RECIPE, lake, DAYS[-1])
    plain = {r["page_id"]: r for r in encoding.encode_pages(pages, words).to_pylist()}
    skip = {"row": None, "user": None}
    for row in sets["test"].read().to_pylist():
        assert row | skip == plain[row["page_id"]] | skip
    owners = [u for path in sets["train"].paths for n in range(pq.read_metadata(path).num_row_groups)
              for u in set(pq.ParquetFile(path).read_row_group(n, ["user_id"])["user_id"].to_pylist())]
    assert len(owners) == len(set(owners)) and sum(pq.read_metadata(p).num_row_groups for p in sets["train"].paths) >= 4


def test_a_set_is_made_once_and_again_when_its_vocabulary_changes(spark: SparkSession, made: tuple[Lake, pa.Table],
                                                                  monkeypatch: pytest.MonkeyPatch) -> None:
    lake, _ = made
    start = datetime(2026, 1, 2, tzinfo=UTC)
    windows = [Window("slice", start, start + timedelta(hours=3))]
    words = encoded_pages.vocabulary()
    first = encode(spark, RECIPE, lake, windows, words)["slice"]
    calls: list[Path] = []
    real = job._encode_into
    monkeypatch.setattr(job, "_encode_into", lambda folder, *a: (calls.append(folder), real(folder, *a)))
    assert encode(spark, RECIPE, lake, windows, words)["slice"] == first and not calls
    other = encode(spark, RECIPE, lake, windows, words.as_of(start - timedelta(days=90)))["slice"]
    assert calls and other.folder != first.folder and other.rows == first.rows == 30
    assert EncodedSet.load(first.folder) == first
    assert [p.name for p in Path(first.folder).parents[1].iterdir() if p.name.startswith(".")] == []


def test_a_run_that_fails_leaves_nothing_behind(spark: SparkSession, made: tuple[Lake, pa.Table], monkeypatch: pytest.MonkeyPatch,
                                                tmp_path: Path) -> None:
    monkeypatch.setattr(job, "_finish", lambda *a: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        encode_training(spark, RECIPE, made[0], DAYS[-1])
    assert list((tmp_path / "home" / "cache" / "tiny" / "encoded").iterdir()) == []


def test_a_changed_file_is_noticed(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    one = encode_training(spark, RECIPE, made[0], DAYS[-1])[0]["test"]
    with Path(one.paths[0]).open("ab") as file:
        file.write(b"x")
    with pytest.raises(TableError, match="missing or changed since it was encoded"):
        encode_training(spark, RECIPE, made[0], DAYS[-1])


def test_pairs_are_encoded_one_a_row(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    lake, start = made[0], datetime(2026, 1, 2, tzinfo=UTC)
    rows = [{"page_id": f"p{n}", "user_id": f"u{n % 7}", "shown_time": start, "label_time": start, "scenario": "feed", "n_items": 3,
             "n_clicked": 1, "co_click": 0, "co_non_click": 1, "mono_click": 2, "left_item": ["i1"] * (n % 3),
             "right_item": ["i2"] * (n % 3), "left_category": [None] * (n % 3), "right_category": ["c"] * (n % 3),
             "kind": ["co_click"] * (n % 3), "weight": [2.0] * (n % 3), "ds": DAYS[0]}
            for n in range(50)]
    lake.table("pairs").begin(DAYS[0]).commit(frame(spark, "pairs", rows), counts={}, inputs={})
    day = Window("day", start, start + timedelta(days=1))
    one = encode(spark, RECIPE, lake, [day], encoded_pages.vocabulary(), "pairs")["day"]
    found = one.read().to_pydict()
    assert one.kind == "pairs" and one.rows == one.items == sum(n % 3 for n in range(50))
    assert (set(found["left"]), set(found["right"]), set(found["kind"]), set(found["weight"])) == ({6}, {7}, {0}, {2.0})
    assert len(set(found["page"])) == sum(n % 3 > 0 for n in range(50))


def test_days_without_pages_give_empty_sets(spark: SparkSession, made: tuple[Lake, pa.Table]) -> None:
    sets, _ = encode_training(spark, RECIPE, made[0], "2027-01-01")
    assert [(s.rows, s.files) for s in sets.values()] == [(0, ())] * 3
    assert sets["train"].read().num_rows == 0


def test_the_constants_that_keep_torch_out_of_jobs_agree_with_the_batch() -> None:
    assert vocabulary.FIELDS == batch.VOCABULARY_FIELDS and encoding.BUCKET_ROWS == batch.BUCKET_ROWS
    assert (encoding.SHOWN_DENSE, encoding.VISIT_DENSE) == (batch.CANDIDATE_DENSE, batch.VISIT_DENSE)
    assert set(batch.FEATURES) <= set(encoding.ENCODED_PAGES.names)
    assert split_times(RECIPE, DAYS[-1]).test_end == datetime(2026, 1, 5, tzinfo=UTC)
