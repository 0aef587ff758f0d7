"""`moveline daily` killed with -9 while each of its tables is written, in turn; then the day is what it would have been."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from feature_store.tables import Lake

ROOT = Path(__file__).resolve().parents[2]
DAY = "2026-03-02"
TABLES = ("events", "exposures", "movelines", "visits", "vocabulary", "pages", "pairs", "pair_counts", "flows")


def small(folder: Path) -> Path:
    """A day of the published shop with few users."""
    content = yaml.safe_load((ROOT / "conf" / "simulated.yaml").read_text())
    content["name"], content["simulator"]["users"] = "small", 100
    content["days"] = {"first": DAY, "last": DAY}
    path = folder / "small.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def begun(home: Path, lake: Path, *command: str) -> subprocess.Popen[bytes]:
    keep = {k: v for k, v in os.environ.items() if not k.startswith("MOVELINE_")}
    env = {**keep, "MOVELINE_HOME": str(home), "MOVELINE_LAKE": str(lake)}
    return subprocess.Popen([sys.executable, "-m", "jobs.main", *command], cwd=ROOT, env=env, start_new_session=True,
                            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def killed_while_written(running: subprocess.Popen[bytes], table: Path) -> bool:
    """Kill a run and all it has started as soon as the table has a data file; whether it was still running then."""
    until = time.monotonic() + 200
    while not any(table.rglob("*.parquet")) and running.poll() is None and time.monotonic() < until:
        time.sleep(0.02)
    alive = running.poll() is None
    if alive:
        os.killpg(running.pid, signal.SIGKILL)
    running.wait(60)
    return alive


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(1200)
def test_a_day_killed_while_each_of_its_tables_is_written_ends_as_if_nothing_had_happened(tmp_path: Path) -> None:
    recipe, calm, hurt = str(small(tmp_path)), tmp_path / "calm", tmp_path / "hurt"
    for command in (("simulate", "--conf", recipe), ("daily", "--conf", recipe)):
        assert begun(tmp_path, calm, *command).wait(300) == 0
    killed = [name for name in TABLES
              if killed_while_written(begun(tmp_path, hurt, "daily", "--conf", recipe), hurt / "small" / name)]
    assert len(killed) >= 6, f"runs were over before they could be killed; killed were {killed}"
    assert begun(tmp_path, hurt, "daily", "--conf", recipe).wait(300) == 0
    for name in TABLES:
        wanted, found = (Lake(str(lake / "small")).table(name).digests([DAY])[DAY] for lake in (calm, hurt))
        assert found == wanted != "absent", name
