"""An MLflow that cannot be reached is said at once, in one line."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_store.errors import ModelError
from jobs.inspect_models import versions
from models.registry import Registry, load


@pytest.fixture
def closed() -> Iterator[str]:
    """Address of a port on which nobody listens."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{free.getsockname()[1]}"


def test_a_server_that_is_not_there_is_named_with_the_fix_and_without_a_password(
        closed: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", closed.replace("//", "//me:secret@"))
    started = time.monotonic()
    says = f"MLflow at {closed} cannot be used: .*refused.*; start it, or check MLFLOW_TRACKING_URI"
    for use in (Registry, versions, lambda: load("models:/small-din@champion")):
        with pytest.raises(ModelError, match=says) as told:
            use()
        assert "\n" not in str(told.value) and "secret" not in str(told.value)
    assert time.monotonic() - started < 10


def test_a_server_that_goes_away_a_file_that_is_no_database_and_a_wrong_scheme_are_one_line(
        tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        gone = Registry(f"sqlite:///{tmp_path / 'any.db'}")
        gone.uri, gone.client = "http://gone", type(gone.client)(f"http://127.0.0.1:{server.getsockname()[1]}")
        with pytest.raises(ModelError, match="MLflow at http://gone cannot be used"):
            gone.versions("small-din")
    (tmp_path / "text.db").write_text("no database " * 100)
    for uri in (f"sqlite:///{tmp_path / 'text.db'}", "wrong://x"):
        with pytest.raises(ModelError, match=f"MLflow at {uri} cannot be used: ") as told:
            Registry(uri).versions("small-din")
        assert "\n" not in str(told.value)
