"""Shared fixtures: one Spark session for all tests, a lake in a folder of its own, and the real logs where they are present."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
from pyspark.sql import SparkSession

from feature_store.session import spark_session
from feature_store.tables import Lake

_STARTED = time.monotonic()
SHARED = Path(os.environ.get("MOVELINE_TEST_DATA", Path(__file__).resolve().parents[2] / "shared" / "data"))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--begin-within", type=float, metavar="SECONDS", help="skip, and say so, what would begin later than that")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    seconds = item.config.getoption("--begin-within")
    if seconds is not None and time.monotonic() - _STARTED > seconds:
        pytest.skip(f"NOT RUN, OUT OF TIME: did not begin within {seconds:.0f} s; this machine is slow, or busy")


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


@pytest.fixture
def recovery(record_property: Callable[[str, object], None]) -> Callable[[str], AbstractContextManager[None]]:
    """Measures how long it takes until all is right again after a fault; a run of drills lists these times at its end."""
    @contextmanager
    def measured(fault: str) -> Iterator[None]:
        started = time.perf_counter()
        yield
        record_property("measured", f"{time.perf_counter() - started:6.1f} s  {fault}")

    return measured


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Drills: the recovery times that docs/reliability.md has in its table, and what else was measured."""
    done = [r for r in terminalreporter.getreports("passed") if getattr(r, "when", "") == "call"]
    lines = sorted(str(value) for r in done for name, value in r.user_properties if name == "measured")
    if lines:
        terminalreporter.write_sep("-", "recovered after, and measured")
        terminalreporter.write_line("\n".join(lines))
