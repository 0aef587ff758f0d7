"""Following runs: what is said, when it ends, how a failure is told. A scripted Airflow answers; the real one is in tests/dags."""

import json
import socket
from datetime import UTC, date, datetime, timedelta

import pytest

from feature_store.errors import MovelineError
from jobs import follow
from jobs.airflow_api import AirflowApi, AirflowError, NoAnswerError
from jobs.airflow_env import password_file

DAY = "2026-03-02"


class Scripted:
    """Answers of Airflow, one step of the script each time the daily runs are asked for."""

    url = "http://scripted"

    def __init__(self, *steps):
        self.steps, self.now, self.asked = list(steps), None, []

    def runs(self, dag, **where):
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


class Paged(AirflowApi):
    """An Airflow that has run many days, and gives 100 runs at most however many are asked for."""

    def __init__(self, first, count):
        super().__init__("http://paged")
        self.days = [str(date.fromisoformat(first) + timedelta(n)) for n in range(count)]

    def call(self, method, path, body=None, **query):
        if "taskInstances" in path:
            return {"task_instances": [{"task_id": "publish", "map_index": -1, "state": "skipped", "duration": 1.0}]}
        runs = [{"dag_run_id": day, "state": "success", "logical_date": f"{day}T00:00:00Z"} for day in self.days
                if follow.DAILY in path and query["logical_date_gte"] <= f"{day}T00:00:00Z" <= query["logical_date_lte"]]
        return {"dag_runs": runs[query["offset"]:][:min(query["limit"], 100)]}


def test_more_days_than_airflow_gives_at_once_are_followed_to_their_end(monkeypatch):
    monkeypatch.setattr(follow, "_LIMIT_S", 2.0)
    api, lines = Paged("2026-01-01", 260), []
    asked = api.days[20:250]
    assert follow._follow(api, set(asked), datetime(2026, 1, 1, tzinfo=UTC), follow.PlainLines(lines.append)) == []
    assert [text.split()[2] for text in lines] == asked


def test_an_airflow_that_cannot_be_reached_is_one_line_with_its_address(tmp_path, monkeypatch):
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
        with pytest.raises(MovelineError, match=f"no password for `admin` of {url} in .*; `moveline down`, then `moveline up`"):
            AirflowApi(url).runs(follow.DAILY)
        password_file().parent.mkdir(parents=True, exist_ok=True)
        password_file().write_text(json.dumps({"admin": "x"}))
        with pytest.raises(NoAnswerError, match=f"Airflow at {url} does not answer .*refused.*; see its logs in {tmp_path}/logs"):
            AirflowApi(url).runs(follow.DAILY)
        monkeypatch.setattr(follow, "_SILENT_S", 0.0)
        with pytest.raises(NoAnswerError):
            followed(AirflowApi(url), [])
