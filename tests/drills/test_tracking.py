"""MLflow is away, or its database is locked: an alias moves once, the ledger says so once, and nothing is registered twice."""

import os
import signal
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from feature_store.errors import ModelError
from jobs import airflow_env, doctor
from jobs.processes import free_port
from models import ledger
from models.registry import Registry, Version
from tests.drills.shop import Recovery
from tests.jobs.test_gate import home_at
from tests.models.registered import candidate

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]
AWAY_S = 60.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path) -> Iterator[Path]:
    with home_at(tmp_path) as folder:
        yield folder


class Server:
    """MLflow's server as `moveline up` starts it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port(0)
        self.address = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen | None = None
        # As it is now: a client leaves the address that it asks in the environment.
        self.env = {**os.environ, **airflow_env.service_env(folder / "any.yaml", "", 0)}

    def start(self) -> None:
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(airflow_env.commands(self.port)["mlflow"], cwd=self.folder, env=self.env, stdout=log,
                                            stderr=log, start_new_session=True)
        limit = time.monotonic() + 120
        while not self.answers():
            assert self.process.poll() is None and time.monotonic() < limit, (self.folder / "server.log").read_text()[-2_000:]
            time.sleep(0.1)

    def answers(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=2).is_success
        except httpx.HTTPError:
            return False

    def kill(self) -> None:
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(home: Path) -> Iterator[Server]:
    found = Server(home)
    try:
        found.start()
        yield found
    finally:
        found.kill()


def two_versions(registry: Registry, folder: Path) -> list[Version]:
    return [registry.register(candidate(folder / name, fingerprint=name)) for name in ("one", "two")]


def steps() -> list[tuple[int, int]]:
    return [(e.from_version, e.to_version) for e in ledger.read(model="small-din")]


def champion(registry: Registry) -> int:
    found = registry.by_alias("small-din")
    return found.version if found else 0


def test_what_waits_for_a_tracking_server_that_was_killed_goes_on_when_it_is_back(
        server: Server, tmp_path: Path, recovery: Recovery) -> None:
    registry = Registry(server.address)
    one, two = two_versions(registry, tmp_path)
    registry.set_alias(one)
    server.kill()
    with pytest.raises(ModelError, match=f"MLflow at {server.address} cannot be used: .*; start it, or check MLFLOW_TRACKING_URI"):
        Registry(server.address)
    with ThreadPoolExecutor(1) as pool:
        moved = pool.submit(registry.set_alias, two)
        time.sleep(AWAY_S)
        assert not moved.done() and steps() == [(0, 1)]
        with recovery(f"MLflow's server killed, away for {AWAY_S:.0f} s: a promotion that waits for it (server's start included)"):
            server.start()
            assert moved.result(timeout=240).version == 2
    assert champion(registry) == 2 and steps() == [(0, 1), (1, 2)]

    made = candidate(tmp_path / "made", fingerprint="three")
    server.kill()
    with ThreadPoolExecutor(1) as pool:
        registered = pool.submit(registry.register, made)
        time.sleep(1.0)
        server.start()
        assert registered.result(timeout=240).version == 3
    assert [v.version for v in registry.versions("small-din")] == [3, 2, 1]
    assert registry.register(made).version == 3


@pytest.mark.parametrize(("kind", "entries"), [("EXCLUSIVE", [(0, 1)]), ("IMMEDIATE", [(0, 1), (1, 2)])])
def test_a_database_that_somebody_else_has_locked_is_waited_for_or_named_and_never_left_half_changed(
        home: Path, recovery: Recovery, kind: str, entries: list[tuple[int, int]]) -> None:
    """EXCLUSIVE keeps out readers, too; IMMEDIATE only writers, so that the ledger is written and the alias is not."""
    registry = Registry()
    one, two = two_versions(registry, home)
    registry.set_alias(one)
    lock = sqlite3.connect(home / "mlflow.db", isolation_level=None, check_same_thread=False)
    lock.execute(f"BEGIN {kind}")
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(registry.set_alias, two)
        time.sleep(1.0)
        assert not waits.done()
        with pytest.raises(ModelError, match=r"MLflow at sqlite:.* cannot be used: .*database is locked"):
            waits.result(timeout=240)
    lock.execute("ROLLBACK")
    assert champion(registry) == 1 and steps() == entries
    aliases = [f for f in doctor.examine() if f.about == "aliases"]
    assert [bool(f.fix) for f in aliases] == ([True] if len(entries) == 2 else [])
    with recovery(f"SQLite locked ({kind.lower()}) for longer than MLflow waits: the promotion again"):
        registry.set_alias(two)
    assert champion(registry) == 2 and steps() == [(0, 1), (1, 2)]
    assert [f for f in doctor.examine() if f.about == "aliases"] == []

    lock.execute(f"BEGIN {kind}")
    with ThreadPoolExecutor(1) as pool:
        back = pool.submit(registry.set_alias, one)
        time.sleep(1.5)
        lock.execute("ROLLBACK")
        assert back.result(timeout=60).version == 1
    lock.close()
    assert champion(registry) == 1 and steps() == [(0, 1), (1, 2), (2, 1)]
