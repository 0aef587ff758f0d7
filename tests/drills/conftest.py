"""The shop whose days are disturbed, and what they are when nothing disturbs them."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from jobs.run_job import run_tables
from tests.drills import shop
from tests.drills.shop import ONE, TWO, Run


@dataclass(frozen=True)
class Calm:
    """Raw files of two days, a state folder in which the first is built, and digests of both by day and table."""

    raw: Path
    home: Path
    digests: dict[str, dict[str, str]]


@pytest.fixture(scope="session")
def calm(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Calm:
    root = tmp_path_factory.mktemp("calm")
    for ds in (ONE, TWO):
        shop.log_day(root / "raw", ds)
    conf, found = shop.recipe(root), {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(SparkSession, "stop", lambda _: None)
        patch.delenv("MOVELINE_LAKE", raising=False)
        for home, ds in (("one", ONE), ("two", TWO)):
            patch.setenv("MOVELINE_HOME", str(root / home))
            run_tables("daily", conf, str(root / "raw"), ds, lambda _: None)
            found[ds] = shop.digests(ds)
            if ds == ONE:
                shutil.copytree(root / "one", root / "two")
    return Calm(root / "raw", root / "one", found)


@pytest.fixture
def data(calm: Calm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Raw files of both days, to be damaged, and a state folder of its own in which the first is built."""
    monkeypatch.setenv("MOVELINE_HOME", str(shop.copied(calm.home, tmp_path / "var")))
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return shop.copied(calm.raw, tmp_path / "raw")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    return shop.runner(monkeypatch, capsys)
