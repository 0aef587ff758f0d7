"""kill -9 of a Spark executor while a day is built: Spark starts another, and the tables are what they would have been."""

from pathlib import Path

import psutil
import pytest

from tests.drills import shop
from tests.drills.command import PATIENCE_S, begun
from tests.drills.conftest import Calm
from tests.drills.shop import ONE, Recovery
from tests.jobs.cluster import cluster_env

pytestmark = [pytest.mark.drill, pytest.mark.timeout(600)]


def executors(driver: psutil.Process) -> list[psutil.Process]:
    """The executors below a driver: JVMs of their own."""
    found = []
    for process in driver.children(recursive=True):
        try:
            if "org.apache.spark.executor.CoarseGrainedExecutorBackend" in process.cmdline():
                found.append(process)
        except psutil.Error:
            continue
    return found


def test_an_executor_killed_in_the_middle_of_a_day_is_replaced_and_the_day_is_whole(
        calm: Calm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recovery: Recovery) -> None:
    home = tmp_path / "var"
    env = {k: v for k, v in cluster_env(tmp_path).items() if k in ("MOVELINE_MASTER", "SPARK_HOME", "PYTHONPATH")}
    daily = begun(home, "daily", "--conf", str(shop.recipe(tmp_path)), "--data", str(calm.raw), "--ds", ONE, **env)
    monkeypatch.setenv("MOVELINE_HOME", str(home))
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)
    shop.wait_until(lambda: shop.digests(ONE)["events"] != "absent", daily)
    victim = executors(psutil.Process(daily.pid))[0]
    victim.kill()
    assert shop.digests(ONE)["flows"] == "absent"
    with recovery("a Spark executor killed in a day: until the day is done"):
        assert daily.wait(PATIENCE_S) == 0
    assert len(list((tmp_path / "spark" / "work").glob("*/*"))) == 3  # two executors, and the one that took the place of the first
    assert shop.digests(ONE) == calm.digests[ONE]
