"""The simulated log as written by Spark: repeatable, complete, late and duplicated in the stated shares."""

from datetime import date, timedelta
from pathlib import Path

import pytest
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.recipe import Recipe, load_recipe
from feature_store.row_digest import row_digest
from feature_store.simulator import raw
from feature_store.simulator.settings import settings_of
from jobs import simulate as job
from jobs.simulate import LOGS, STAMP, is_current, simulate

ROOT = Path(__file__).resolve().parents[2]


def small(**changes: object) -> Recipe:
    recipe = load_recipe(ROOT / "conf/simulated.yaml")
    return recipe.model_copy(update={"simulator": {**(recipe.simulator or {}), "users": 300, **changes}})


def read(spark: SparkSession, root: Path, name: str) -> DataFrame:
    return spark.read.parquet(str(root / name))


def digests(spark: SparkSession, root: Path) -> dict[str, str]:
    found = {}
    for name in LOGS:
        frame = read(spark, root, name)
        found[name] = str(frame.agg(*row_digest(frame, frame.columns), F.count("*")).first())
    return found


@pytest.fixture(scope="module")
def written(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, dict[str, int]]]:
    root = tmp_path_factory.mktemp("raw")
    return root, simulate(spark, small(late_share=0.1, duplicate_share=0.05), root, partitions=1)


def test_the_same_seed_gives_the_same_log_for_one_and_five_partitions(spark: SparkSession, written: tuple[Path, dict]) -> None:
    root, counts = written
    before = digests(spark, root)
    # Written over the first one: a second run replaces, it does not add.
    assert simulate(spark, small(late_share=0.1, duplicate_share=0.05), root, partitions=5) == counts
    assert digests(spark, root) == before
    assert not [p for p in root.iterdir() if p.name.startswith("_")]


def test_a_log_is_current_for_its_own_settings_days_and_code(
        written: tuple[Path, dict], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, recipe = written[0], small(late_share=0.1, duplicate_share=0.05)
    assert is_current(recipe, root) and not is_current(recipe, tmp_path)
    assert recipe.days is not None and not is_current(small(), root)
    other = recipe.days.model_copy(update={"first": recipe.days.first - timedelta(1)})
    assert not is_current(recipe.model_copy(update={"days": other}), root)
    monkeypatch.setattr(job, "source_digest", lambda *modules: str("feature_store.simulator.slates" in modules))
    assert not is_current(recipe, root)


def test_a_log_that_is_being_written_is_not_current(spark: SparkSession, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(*given: object) -> None:
        raise KeyboardInterrupt

    recipe = small()
    (tmp_path / STAMP).write_text(job.made_from(recipe))
    assert is_current(recipe, tmp_path)
    monkeypatch.setattr(job, "_replace", killed)
    with pytest.raises(KeyboardInterrupt):
        simulate(spark, recipe, tmp_path)
    assert not is_current(recipe, tmp_path)


def test_another_seed_gives_other_events(spark: SparkSession) -> None:
    day = raw.unix_day(date(2026, 3, 2))
    sums = []
    for seed in (7, 8):
        events = raw.events(spark, settings_of(small(seed=seed)), range(day, day + 1), 1)
        sums.append(events.agg(*row_digest(events, ["user", "step", "scene", "item"])).first())
    assert sums[0] != sums[1]


def test_counts_are_the_rows_of_each_arrival_day(spark: SparkSession, written: tuple[Path, dict]) -> None:
    root, counts = written
    assert {"2026-03-02", "2026-03-03", "2026-03-04"} <= set(counts)
    for name in ("events", "exposures", "items", "truth", "truth_pages"):
        assert sum(day.get(name, 0) for day in counts.values()) == read(spark, root, name).count()


def test_late_rows_and_duplicates_come_in_the_stated_shares(spark: SparkSession, written: tuple[Path, dict]) -> None:
    events = read(spark, written[0], "events")
    distinct = events.distinct()
    total, ids, late, misplaced = distinct.agg(
        F.count("*"), F.countDistinct("event_id"), F.avg((F.to_date("available_time") > F.to_date("event_time")).cast("int")),
        F.sum((F.date_format("available_time", "yyyy-MM-dd") != F.col("ds")).cast("int"))).first()  # type: ignore[misc]
    assert total == ids and misplaced == 0
    assert late == pytest.approx(0.1, abs=0.015)
    assert events.count() / total - 1 == pytest.approx(0.05, abs=0.01)


def test_late_and_duplicate_shares_of_zero_are_zero(spark: SparkSession) -> None:
    day = raw.unix_day(date(2026, 3, 2))
    events = raw.events(spark, settings_of(small(late_share=0, duplicate_share=0)), range(day, day + 1), 1)
    slowest, rows, ids = events.agg(F.max(F.unix_micros("available_time") - F.unix_micros("event_time")), F.count("*"),
                                    F.countDistinct("kind", "user", "step", "slot")).first()  # type: ignore[misc]
    assert slowest <= 3_000_000 and rows == ids > 5_000


def test_every_click_on_a_page_is_an_event_after_it_was_shown(spark: SparkSession, written: tuple[Path, dict]) -> None:
    root, _ = written
    clicked = read(spark, root, "exposures").where("clicked")
    clicks = read(spark, root, "events").where("event_id like 'c%'").distinct()
    same = clicked.join(clicks, (clicked.user_id == clicks.user_id) & (clicked.item_id == clicks.item_id)
                        & (clicked.click_time == clicks.event_time))
    assert clicked.count() == clicks.count() == same.count() > 100
    assert clicked.where("click_time <= shown_time or click_time > label_time").count() == 0


def test_every_shown_item_has_its_label_after_the_same_time_and_its_truth(spark: SparkSession, written: tuple[Path, dict]) -> None:
    root, _ = written
    exposures, truth = read(spark, root, "exposures"), read(spark, root, "truth").drop("ds")
    waits = exposures.select((F.unix_micros("label_time") - F.unix_micros("shown_time")).alias("wait")).distinct().collect()
    assert [row.wait for row in waits] == [1_800 * 1_000_000]
    joined = exposures.join(truth, ["page_id", "item_id", "position"])
    assert joined.count() == exposures.count() == truth.count()
    assert joined.where("click_probability <= 0 or click_probability >= 1 or view_probability <= 0").count() == 0
    sizes = exposures.groupBy("page_id").agg(F.count("*").alias("n"), F.max("position").alias("last"),
                                             F.countDistinct("trigger_item_id").alias("t"))
    assert sizes.where("n <> 20 or last <> 20 or t <> 1").count() == 0
    assert read(spark, root, "truth_pages").count() == sizes.count()


def test_scenes_and_actions_are_those_the_recipe_lists(spark: SparkSession, written: tuple[Path, dict]) -> None:
    events, source = read(spark, written[0], "events"), small().source
    assert {r.scene for r in events.select("scene").distinct().collect()} == set(source.scenes or [])
    assert {r.action for r in events.select("action").distinct().collect()} == set(source.actions or [])
    assert read(spark, written[0], "items").where("ds = '2026-03-02'").count() == 20_480
