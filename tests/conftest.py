"""Shared fixtures: one Spark session for all tests, a lake in a folder of its own, and the real logs where they are present."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pyspark.sql import SparkSession

from feature_store.session import spark_session
from feature_store.tables import Lake

SHARED = Path(os.environ.get("MOVELINE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


@pytest.fixture(scope="session")
def spark() -> Iterator[SparkSession]:
    session = spark_session("moveline-tests")
    yield session
    session.stop()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(str(tmp_path / "lake"))


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of the real logs; tests that need it are skipped, and say so, where it is absent."""
    if not SHARED.is_dir():
        pytest.skip(f"SKIPPED REAL DATA: no real logs at {SHARED}; set MOVELINE_TEST_DATA to their folder")
    return SHARED
