"""The disk fills up in the middle of a day, of a promotion and of a checkpoint: what was there stays, and all of it goes on."""

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from feature_store.errors import ModelError
from models import ledger
from models.checkpoint import Checkpoints
from models.registry import Registry
from tests.drills import shop
from tests.drills.conftest import Calm
from tests.drills.shop import ONE, TWO, Recovery, Run
from tests.models.test_checkpoint import fit

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]


@pytest.fixture
def disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A disk of 16 MiB with the state folder on it."""
    place = tmp_path / "disk"
    place.mkdir()
    try:
        made = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)], capture_output=True, text=True,
                              check=False)
    except OSError as error:
        pytest.skip(f"needs `mount` to make a small disk: {error}")
    if made.returncode:
        pytest.skip(f"needs a small disk, and mounting a tmpfs is not allowed here: {made.stderr.strip()}")
    monkeypatch.setenv("MOVELINE_HOME", str(place / "var"))
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    try:
        yield place
    finally:
        subprocess.run(["umount", "-l", str(place)], check=True)


def fill(disk: Path, left: int) -> Path:
    """Leave so many bytes; the file that takes the others."""
    ballast = disk / "ballast"
    with ballast.open("wb") as file:
        file.write(bytes(max(0, shutil.disk_usage(disk).free - left)))
    return ballast


@pytest.mark.parametrize("left", [0, 40_000, 80_000])
def test_a_disk_that_fills_up_in_a_day_leaves_whole_tables_and_the_day_is_finished_when_there_is_room(
        disk: Path, calm: Calm, tmp_path: Path, run: Run, recovery: Recovery, left: int) -> None:
    shop.copied(calm.home, disk / "var")
    daily = ("daily", "--conf", str(shop.recipe(tmp_path)), "--data", str(calm.raw), "--ds", TWO)
    ballast = fill(disk, left)
    code, said = run(*daily)
    assert code == 1 and "the disk is full" in said.splitlines()[-1] and "run it again" in said, said
    assert shop.digests(ONE) == calm.digests[ONE]
    ballast.unlink()
    assert {name for name, found in shop.digests(TWO).items() if found not in ("absent", calm.digests[TWO][name])} == set()
    with recovery(f"disk full in a day ({left // 1000} kB were left)"):
        assert run(*daily)[0] == 0
    assert shop.digests(TWO) == calm.digests[TWO] and shop.digests(ONE) == calm.digests[ONE]


def test_a_promotion_on_a_full_disk_changes_nothing_and_is_made_when_there_is_room(disk: Path, recovery: Recovery) -> None:
    registry = Registry()
    registry.client.create_registered_model("shop-din")
    for n in range(2):
        registry.client.create_model_version("shop-din", f"file:///nowhere/{n}")
    two, one = registry.versions("shop-din")
    registry.set_alias(one)
    ballast = fill(disk, 0)
    with pytest.raises(ModelError, match=r"the ledger at .* cannot be written, nothing was changed: .*No space left on device"):
        registry.set_alias(two)
    ballast.unlink()
    assert len(ledger.read(model="shop-din")) == 1
    with recovery("disk full at a promotion"):
        registry.set_alias(two)
    assert [(e.from_version, e.to_version) for e in ledger.read(model="shop-din")] == [(0, 1), (1, 2)]
    champion = registry.by_alias("shop-din")
    assert champion is not None and champion.version == 2


def test_a_checkpoint_that_does_not_fit_leaves_the_one_before_it(disk: Path, tmp_path: Path, recovery: Recovery) -> None:
    _, calm = fit(tmp_path / "calm", [None])
    fit(disk / "run", [3])
    before = Checkpoints(disk / "run").newest()
    ballast = fill(disk, 20_000)
    with pytest.raises(Exception, match="No space left on device"):
        fit(disk / "run", [3])
    assert Checkpoints(disk / "run").newest() == before is not None
    ballast.unlink()
    with recovery("disk full at a checkpoint"):
        _, losses = fit(disk / "run", [None])
    assert losses == pytest.approx(calm, abs=1e-5)
