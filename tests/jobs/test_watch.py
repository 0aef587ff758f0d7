"""The daily look at a champion: real MLflow, real pages, a day that is like the one before and one that is not."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import date
from pathlib import Path

import matplotlib.image
import numpy as np
import pyarrow as pa
import pytest
import yaml
from pyspark.sql import SparkSession

from feature_store.contracts import PAGES
from feature_store.errors import ModelError, TableError
from feature_store.home import lake_root
from feature_store.recipe import Recipe
from feature_store.tables import Lake
from jobs import cli
from jobs.watch import PAGE, PAGE_TAG, newest_closed, watch, watched
from models.ranker import Ranker
from models.registry import Candidate, Registry
from tests.jobs.test_gate import DAYS, SOURCE, commit_pages, day_of_pages, home_at, made
from tests.models.registered import example

CONTENT = {"name": "small", "source": SOURCE, "vocabulary_buckets": 4, "models": {"din": {}, "item2vec": {}},
           "watch": {"max_calibration_error": 1.0, "max_stability": 1.5}}
RECIPE = Recipe.model_validate(CONTENT)


def strange(pages: pa.Table) -> pa.Table:
    """The same pages, of items that nobody knows and without history."""
    rows = pages.to_pylist()
    for row in rows:
        row |= {"item_id": [f"x{i}" for i in row["item_id"]],
                **{name: [] for name in row if name.startswith("moveline_")}}
    return pa.Table.from_pylist(rows, schema=PAGES.schema)


def with_champion(spark: SparkSession, root: Path) -> Lake:
    """Two days of one kind, a third of another, and a champion, in the state folder `root`."""
    found, folder = Lake(lake_root("small")), made(root / "made", 1)
    days = [day_of_pages(ds, n, Ranker(folder)) for n, ds in enumerate(DAYS)]
    for ds, pages in zip(DAYS, [*days[:2], strange(days[2])], strict=True):
        commit_pages(spark, found, ds, pages)
    registry = Registry()
    registry.set_alias(registry.register(Candidate("small-din", "small", folder, "f", example())))
    return found


@pytest.fixture(scope="module")
def lake(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    with home_at(tmp_path_factory.mktemp("watch")) as root:
        yield with_champion(spark, root)


def test_a_day_like_the_one_before_is_within_the_limits_and_drawn_by_mlflow(lake: Lake) -> None:
    registry = Registry()
    first, second = (watch(RECIPE, lake, "din", ds, registry) for ds in DAYS[:2])
    assert first["pages"] == second["pages"] == 60 and first["gauc"] > 0.9 and 0 <= first["unknown"] < 0.2
    assert not [key for key in first if key.startswith("stability.")]
    assert {"stability.scores", "stability.items_a_page", "stability.tokens", "stability.price"} <= set(second)
    champion = registry.by_alias("small-din")
    assert champion is not None
    points = registry.client.get_metric_history(champion.run_id, "watch.gauc")
    assert [(p.step, p.value) for p in points] == [
        (date.fromisoformat(ds).toordinal(), own["gauc"]) for ds, own in zip(DAYS, (first, second), strict=False)]
    assert watched(RECIPE, registry) == ["din"]


def test_the_last_days_are_a_page_that_a_real_browser_shows(lake: Lake, tmp_path: Path) -> None:
    registry = Registry()
    watch(RECIPE, lake, "din", DAYS[1], registry)
    champion = registry.by_alias("small-din")
    assert champion is not None and champion.tags[PAGE_TAG] == f"runs:/{champion.run_id}/{PAGE}"
    page = Path(registry.client.download_artifacts(champion.run_id, PAGE, str(tmp_path)))
    text = page.read_text()
    assert "Version 1 on 2026-05-02" in text and not re.search(r'<script|(src|href)="http', text)
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        pytest.skip("no Chromium on this machine to open the page with")
    picture = tmp_path / "page.png"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}", "--hide-scrollbars"]
    size, shot = "--window-size=1300,1500", f"--screenshot={picture}"
    done = subprocess.run([browser, *options, size, shot, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    if picture.is_file():
        seen = matplotlib.image.imread(picture)
        pixels = (seen[..., :3] * 255).reshape(-1, 3)
        red, green, blue = pixels.T  # thin lines are blended with the white around them
        drawn = [int((blue - red > 80).sum()), int((red - np.maximum(green, blue) > 80).sum())]
        assert min(drawn) > 50, "the lines of the plots and their limits are drawn"
    for head in ("GAUC", "Calibration error", "Promised clicks", "Unknown items", "Against the day before"):
        assert f"<h2>{head}</h2>" in (done.stdout or text)
    assert done.returncode == 0 and picture.is_file(), done.stderr[-2_000:]


def test_a_strange_day_is_an_error_that_names_every_limit(lake: Lake, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"models:/small-din/1 on 2026-05-03: (gauc .*)?unknown is 1.0000, the limit 0.5; "
                                         r".*stability.tokens is .*; its page watch"):
        watch(RECIPE, lake, "din")
    path = tmp_path / "small.yaml"
    path.write_text(yaml.safe_dump(CONTENT))
    cli._load_commands()
    cli.app(["watch", "--conf", str(path), "--ds", DAYS[1]], standalone_mode=False)
    with pytest.raises(ModelError, match="small-din/1 on 2026-05-03"):
        cli.app(["watch", "--conf", str(path)], standalone_mode=False)


def test_without_a_day_the_newest_is_taken_whose_labels_are_closed(lake: Lake) -> None:
    def late(days: int) -> Recipe:
        inputs = {"log": {"path": "log/ds={ds}", "late_days": days}}
        return Recipe.model_validate({**CONTENT, "source": {**SOURCE, "inputs": inputs}})

    built = lake.table("pages").days()
    assert [newest_closed(late(days), lake, built) for days in range(3)] == list(reversed(DAYS))
    assert watch(late(1), lake, "din") == watch(RECIPE, lake, "din", DAYS[1])
    with pytest.raises(TableError, match="no day of pages of small has all of its labels yet; look again when the next day is"):
        watch(late(3), lake, "din")


def test_what_cannot_be_watched_is_said(lake: Lake) -> None:
    with pytest.raises(ModelError, match="small-item2vec has no registered version"):
        watch(RECIPE, lake, "item2vec")
    with pytest.raises(TableError, match="small has no pages of 2026-05-09; build them with `moveline daily`"):
        watch(RECIPE, lake, "din", "2026-05-09")
