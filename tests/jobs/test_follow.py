"""Following runs: what is said, when it ends, how a failure is told. A scripted Airflow answers; the real one is in tests/dags."""

from datetime import UTC, datetime

import pytest

from jobs import follow
from jobs.airflow_api import AirflowError

DAY = "2026-03-02"


class Scripted:
    """Answers of Airflow, one step of the script each time the daily runs are asked for."""

    url = "http://scripted"

    def __init__(self, *steps):
        self.steps, self.now, self.asked = list(steps), None, []

    def runs(self, dag):
        if dag == follow.DAILY:
            self.now = self.steps.pop(0) if len(self.steps) > 1 else self.steps[0]
        state = self.now.get(dag)
        when = datetime.now(UTC).isoformat() if dag == follow.TRAIN else f"{DAY}T00:00:00Z"
        return (
            []
            if state is None
            else [
                {
                    "dag_run_id": dag,
                    "state": state,
                    "logical_date": f"{DAY}T00:00:00Z" if dag == follow.DAILY else None,
                    "run_after": when,
                }
            ]
        )

    def tasks(self, dag, run):
        return [{"task_id": name, "map_index": -1, "state": state, "duration": 3.0, "try_number": 2, "rendered_map_index": None}
                for name, state in self.now.get("tasks", {}).get(dag, {}).items()]

    def call(self, method, path, **query):
        self.asked.append(path)
        return {
            "content": [{"event": "starting"}, {"event": "error: conf/x.yaml: source.events: no column `usr`"}, {"event": "exit 1"}]
        }


@pytest.fixture(autouse=True)
def _no_waiting(monkeypatch):
    monkeypatch.setattr(follow, "_POLL_S", 0.0)


def followed(api, lines):
    return follow._follow(api, {DAY}, datetime(2026, 1, 1, tzinfo=UTC), follow.PlainLines(lines.append))


def test_each_change_of_a_task_is_one_line_and_training_is_followed_to_its_end():
    lines = []
    api = Scripted(
        {follow.DAILY: "running", "tasks": {follow.DAILY: {"tables": "running", "publish": None}}},
        {follow.DAILY: "running", "tasks": {follow.DAILY: {"tables": "running", "publish": None}}},
        {follow.DAILY: "success", "tasks": {follow.DAILY: {"tables": "success", "publish": "success"}}},
        {follow.DAILY: "success", follow.TRAIN: "success",
         "tasks": {follow.DAILY: {"tables": "success", "publish": "success"}, follow.TRAIN: {"train_model": "success"}}},
    )
    assert [r["state"] for r in followed(api, lines)] == ["success"]
    assert [" ".join(text.split()[2:]) for text in lines] == [
        f"{DAY} tables: running",
        f"{DAY} tables: success (3 s)",
        f"{DAY} publish: success (3 s)",
        "training train_model: success (3 s)",
    ]


def test_nothing_published_means_no_training_is_waited_for():
    api = Scripted({follow.DAILY: "success", "tasks": {follow.DAILY: {"tables": "success", "publish": "skipped"}}})
    assert followed(api, []) == []


def test_training_that_never_starts_is_an_error_and_not_an_endless_wait(monkeypatch):
    monkeypatch.setattr(follow, "_TRAIN_APPEARS_S", 0.05)
    api = Scripted({follow.DAILY: "success", "tasks": {follow.DAILY: {"publish": "success"}}})
    with pytest.raises(AirflowError, match="train_models did not start"):
        followed(api, [])


def test_a_failed_task_is_named_with_the_line_that_says_why():
    api = Scripted({follow.DAILY: "failed", "tasks": {follow.DAILY: {"tables": "failed", "publish": "upstream_failed"}}})
    with pytest.raises(AirflowError) as caught:
        followed(api, [])
    text = str(caught.value)
    assert text.startswith(f"task tables of moveline_daily {DAY} failed") and text.endswith("no column `usr`")
    assert api.asked == [f"/dags/{follow.DAILY}/dagRuns/{follow.DAILY}/taskInstances/tables/logs/2"]
