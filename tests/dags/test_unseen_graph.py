"""The graph `unseen`, really run on a small random log: what it trains, and that it skips what is trained."""

from pathlib import Path

import pytest

from feature_store.home import home
from jobs.unseen import finished, prepare, run
from tests.dags.test_operate_graphs import recorded, run_graphs
from tests.jobs.test_unseen import conf, prepared  # noqa: F401


@pytest.mark.slow
@pytest.mark.drill
@pytest.mark.timeout(900)
def test_runs_are_mapped_tasks_and_what_is_trained_is_not_trained_again(conf: Path, prepared: object) -> None:  # noqa: F811
    run(conf, prepare(conf), "results", "din", 1)
    given = {"conf": str(conf), "seeds": 1, "arms": "din,ccn", "scenarios": "results"}
    [ran] = run_graphs(home(), conf, ("unseen", given))
    assert ran[:2] == ("success", {"plan": "success", "run": "success", "collect": "success"})
    assert recorded(home(), "select rendered_map_index from task_instance where task_id = 'run'") == [("results ccn 1",)]
    assert {(found["scenario"], found["arm"]) for found in finished(prepare(conf))} == {("results", "din"), ("results", "ccn")}
