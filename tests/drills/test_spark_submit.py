"""Every job of a day as an application of its own under `spark-submit`."""

from pathlib import Path

import pytest

from tests.drills import shop
from tests.drills.command import submit
from tests.drills.conftest import Calm
from tests.drills.shop import ONE

pytestmark = [pytest.mark.drill, pytest.mark.slow, pytest.mark.timeout(900)]
JOBS = ("ingest", "movelines", "vocabulary", "visits", "pages", "pairs", "flows")


def test_the_jobs_of_a_day_one_application_each_build_the_tables_of_one_session(
        calm: Calm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "var"
    for job in JOBS:
        submit(home, job, "--conf", str(shop.recipe(tmp_path)), "--data", str(calm.raw), "--ds", ONE)
    monkeypatch.setenv("MOVELINE_HOME", str(home))
    monkeypatch.delenv("MOVELINE_LAKE", raising=False)
    assert shop.digests(ONE) == calm.digests[ONE]
