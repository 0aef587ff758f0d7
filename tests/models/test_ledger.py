"""Every change of an alias is in the ledger, and of two at once one wins: real MLflow on SQLite, real Delta log, real processes."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError
from mlflow import MlflowClient

from feature_store.errors import ConflictError, ModelError
from feature_store.home import ledger_root
from models import ledger
from models.aliases import Alias
from models.ledger import DEPLOY, NOBODY, OUTSIDE, PROMOTE, ROLLBACK
from models.registry import CHAMPION, Registry, Version

ROOT = Path(__file__).resolve().parents[2]
ROUNDS = 4
PROMOTES = """
import sys, time
from pathlib import Path
from feature_store.errors import ConflictError
from models.registry import Registry
registry = Registry()
mine = next(v for v in registry.versions(sys.argv[4]) if v.version == int(sys.argv[1]))
for n in range(int(sys.argv[2])):
    Path(f"{sys.argv[3]}/{sys.argv[1]}-{n}").touch()
    while len(list(Path(sys.argv[3]).glob(f"*-{n}"))) < 2:
        time.sleep(0.002)
    try:
        registry.set_alias(mine, f"race{n}", "the race", instead_of=1)
        print("won")
    except ConflictError as error:
        print("lost", error)
"""


@pytest.fixture(scope="module", autouse=True)
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(tmp_path_factory.mktemp("state")))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("MOVELINE_LAKE", raising=False)
        yield Registry()


def versions(registry: Registry, name: str, count: int = 3) -> list[Version]:
    """Versions that hold nothing, oldest first."""
    registry.client.create_registered_model(name)
    for n in range(count):
        registry.client.create_model_version(name, f"file:///nowhere/{n}")
    return registry.versions(name)[::-1]


def steps(name: str, alias: str = CHAMPION) -> list[tuple[str, int, int]]:
    return [(e.action, e.from_version, e.to_version) for e in ledger.read(model=name, alias=alias)]


def stands(registry: Registry, name: str, alias: str = CHAMPION) -> int:
    found = registry.by_alias(name, alias)
    return found.version if found else NOBODY


def test_an_entry_says_who_what_why_and_with_which_numbers(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIRFLOW_CTX_DAG_ID", "train_models")
    monkeypatch.setenv("AIRFLOW_CTX_DAG_RUN_ID", "manual__1")
    one, two, _ = versions(registry, "a-din")
    registry.set_alias(one, reason="first model", instead_of=NOBODY)
    made = registry.set_alias(two, reason="better", numbers={"gauc": 0.01}, instead_of=1)
    assert made.aliases == (CHAMPION,) and made.tags["alias.champion"] == "better" and stands(registry, "a-din") == 2
    first, second = ledger.read(model="a-din")
    assert (first.entry, first.action, first.from_version, first.to_version) == (1, PROMOTE, NOBODY, 1)
    assert (second.entry, second.from_version, second.to_version, second.numbers) == (2, 1, 2, {"gauc": 0.01})
    assert second.by.endswith(", train_models manual__1") and "@" in second.by and second.time >= first.time
    registry.set_alias(two)
    assert len(ledger.read(model="a-din")) == 2  # nothing changed, nothing to tell


def test_a_rollback_goes_back_one_champion_at_a_time(registry: Registry) -> None:
    one, two, three = versions(registry, "b-din")
    for version in (one, two, three):
        registry.set_alias(version)
    registry.set_alias(three, "deployed", action=DEPLOY)
    for expected in (2, 1):
        back = registry.previous("b-din")
        assert back is not None and back.version == expected
        registry.set_alias(back, action=ROLLBACK)
    assert registry.previous("b-din") is None and registry.previous("nobody") is None
    assert steps("b-din") == [(PROMOTE, 0, 1), (PROMOTE, 1, 2), (PROMOTE, 2, 3), (ROLLBACK, 3, 2), (ROLLBACK, 2, 1)]
    registry.set_alias(three)
    before = registry.previous("b-din")
    assert before is not None and before.version == 1
    assert steps("b-din", "deployed") == [(DEPLOY, 0, 3)]


def test_a_champion_set_by_something_else_is_entered_as_found(registry: Registry) -> None:
    _, two, three = versions(registry, "c-din")
    registry.client.set_registered_model_alias("c-din", CHAMPION, "1")
    registry.set_alias(two)
    registry.client.set_registered_model_alias("c-din", CHAMPION, "1")
    registry.client.set_registered_model_alias("c-din", CHAMPION, "3")
    with pytest.raises(ConflictError, match=r"c-din: alias champion stands on version 3, and 2 was chosen against 1;"):
        registry.set_alias(two, instead_of=1)
    registry.set_alias(two)
    assert steps("c-din") == [(OUTSIDE, 0, 1), (PROMOTE, 1, 2), (OUTSIDE, 2, 3), (PROMOTE, 3, 2)]
    registry.client.delete_registered_model_alias("c-din", CHAMPION)
    registry.set_alias(three)
    assert steps("c-din")[-2:] == [(OUTSIDE, 2, 0), (PROMOTE, 0, 3)]


def test_a_promotion_cut_short_after_the_ledger_is_finished_by_the_next(
        registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    one, two, three = versions(registry, "d-din")
    registry.set_alias(one)
    with monkeypatch.context() as patch:
        patch.setattr(MlflowClient, "set_registered_model_alias", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            registry.set_alias(two)
    assert stands(registry, "d-din") == 1 and steps("d-din")[-1] == (PROMOTE, 1, 2)
    with pytest.raises(ConflictError, match="stands on version 2, and 3 was chosen against 1"):
        registry.set_alias(three, instead_of=1)
    assert stands(registry, "d-din") == 2
    registry.set_alias(three, instead_of=2)
    assert stands(registry, "d-din") == 3 and [s[0] for s in steps("d-din")] == [PROMOTE] * 3


def test_a_registry_that_began_anew_has_a_history_of_its_own(registry: Registry) -> None:
    _, two, _ = versions(registry, "e-din")
    registry.set_alias(two)
    registry.client.delete_registered_model("e-din")
    time.sleep(0.01)
    one, *_ = versions(registry, "e-din", 1)
    registry.set_alias(one, instead_of=NOBODY)
    assert [e.to_version for e in Alias(registry.client, "e-din", CHAMPION).line.entries()] == [1]
    assert [e.to_version for e in ledger.read(model="e-din")] == [2, 1]


def test_a_version_that_does_not_exist_is_refused_and_not_entered(registry: Registry) -> None:
    one, *_ = versions(registry, "f-din")
    with pytest.raises(ModelError, match="not found"):
        registry.set_alias(Version("f-din", 99, "", "", (), {}))
    assert ledger.read(model="f-din") == [] and registry.set_alias(one).version == 1


def test_a_ledger_that_cannot_be_written_changes_nothing(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise DeltaError("No space left on device\nbacktrace")

    one, two, _ = versions(registry, "i-din")
    registry.set_alias(one)
    with monkeypatch.context() as patch:
        patch.setattr(ledger, "write_deltalake", full)
        patch.setattr(ledger, "_ATTEMPTS", 2)
        with pytest.raises(ModelError, match=r"the ledger at .* cannot be written, nothing was changed: No space left on device$"):
            registry.set_alias(two)
    assert stands(registry, "i-din") == 1 and steps("i-din") == [(PROMOTE, 0, 1)]


@pytest.mark.timeout(180)
@pytest.mark.drill
def test_of_two_processes_that_promote_at_once_one_wins(registry: Registry, tmp_path: Path) -> None:
    one, *_ = versions(registry, "g-din")
    for n in range(ROUNDS):
        registry.set_alias(one, f"race{n}")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    runs = [subprocess.Popen([sys.executable, "-c", PROMOTES, str(v), str(ROUNDS), str(meeting), "g-din"], cwd=ROOT,
                             stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for v in (2, 3)]
    said = [run.communicate(timeout=150) for run in runs]
    assert [run.returncode for run in runs] == [0, 0], said
    lines = [out.splitlines() for out, _ in said]
    for n in range(ROUNDS):
        both = [lines[0][n].split()[0], lines[1][n].split()[0]]
        assert sorted(both) == ["lost", "won"], lines
        assert steps("g-din", f"race{n}") == [(PROMOTE, 0, 1), (PROMOTE, 1, 2 + both.index("won"))]
        assert stands(registry, "g-din", f"race{n}") == 2 + both.index("won")


def test_entries_cannot_be_deleted(registry: Registry) -> None:
    one, *_ = versions(registry, "h-din")
    registry.set_alias(one)
    with pytest.raises(DeltaError):
        DeltaTable(ledger_root()).delete()
    assert len(ledger.read(model="h-din")) == 1
