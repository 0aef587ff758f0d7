"""Start runs of the graphs and follow them to their end, with a progress display or plain lines."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Protocol

from jobs.airflow_api import AirflowApi, AirflowError, NoAnswerError

DAILY, TRAIN = "moveline_daily", "train_models"
_DONE = ("success", "failed")
_POLL_S = 2.0
_LIMIT_S = 6 * 3600.0
_TRAIN_APPEARS_S = 90.0
_SILENT_S = 300.0
_SHOWN_LINES = 15


@dataclass(frozen=True)
class TaskState:
    """One task instance: which run it belongs to, what it does, how it stands."""

    run: str
    task: str
    state: str
    seconds: float | None


class Display(Protocol):
    """Takes the state of all tasks, again and again."""

    def show(self, tasks: list[TaskState]) -> None:
        """Draw, or say what changed."""

    def open(self) -> Any:
        """Context in which `show` is called."""


class PlainLines:
    """One line each time a task changes its state: for logs and pipes."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._seen: dict[tuple[str, str], str] = {}
        self._start = time.monotonic()

    @contextmanager
    def open(self) -> Iterator[None]:
        """Nothing to prepare."""
        yield

    def show(self, tasks: list[TaskState]) -> None:
        """Say what changed since the last call."""
        for task in tasks:
            key = (task.run, task.task)
            if task.state != self._seen.get(key) and task.state != "none":
                took = f" ({task.seconds:.0f} s)" if task.seconds and task.state in (*_DONE, "skipped", "up_for_retry") else ""
                self._say(f"{time.monotonic() - self._start:6.0f} s  {task.run}  {task.task}: {task.state}{took}")
            self._seen[key] = task.state


_MARKS = {
    "success": "[green]done[/]", "failed": "[red]failed[/]", "running": "[yellow]running[/]", "skipped": "[dim]skipped[/]",
    "up_for_retry": "[red]will retry[/]", "none": "[dim]waiting[/]",
}


class LiveTable:
    """A table that redraws itself on a terminal."""

    def __init__(self) -> None:
        from rich.live import Live

        self._live = Live(refresh_per_second=4, transient=False)
        self._start = time.monotonic()

    def open(self) -> Any:
        """The live display itself."""
        return self._live

    def show(self, tasks: list[TaskState]) -> None:
        """Draw all tasks."""
        from rich.table import Table

        ended = sum(t.state in (*_DONE, "skipped") for t in tasks)
        table = Table(title=f"{ended} of {len(tasks)} tasks, {time.monotonic() - self._start:.0f} s", title_justify="left")
        for name in ("run", "task", "state", "seconds"):
            table.add_column(name, justify="right" if name == "seconds" else "left")
        for task in tasks:
            table.add_row(
                task.run, task.task, _MARKS.get(task.state, task.state), "" if task.seconds is None else f"{task.seconds:.0f}"
            )
        self._live.update(table)


def display(plain: bool) -> Display:
    """A live table on a terminal, else plain lines."""
    import sys

    import typer

    return PlainLines(typer.echo) if plain or not sys.stdout.isatty() else LiveTable()


def run_days(url: str, days: Iterable[str], shown: Display) -> list[dict[str, Any]]:
    """Build some days by a backfill, follow them and the training that they start; the training runs.

    Parameters
    ----------
    url : address of Airflow. days : consecutive days, ascending.

    Raises
    ------
    AirflowError : a task failed (its name and the end of its log), or nothing happens within the time limit.
    """
    api, wanted = AirflowApi(url), list(days)
    started = datetime.now(UTC)
    api.pause(DAILY, True)  # the scheduler would write to the same database meanwhile
    api.backfill(DAILY, wanted[0], wanted[-1])
    for dag in (TRAIN, DAILY):
        api.pause(dag, False)
    with shown.open():
        return _follow(api, set(wanted), started, shown)


def _follow(api: AirflowApi, days: set[str], started: datetime, shown: Display) -> list[dict[str, Any]]:
    stop = time.monotonic() + _LIMIT_S
    daily_done_at: float | None = None
    answered, span = time.monotonic(), {"logical_date_gte": f"{min(days)}T00:00:00Z", "logical_date_lte": f"{max(days)}T23:59:59Z"}
    while time.monotonic() < stop:
        try:
            daily = [r for r in api.runs(DAILY, **span) if (r["logical_date"] or "")[:10] in days]
            training = api.runs(TRAIN, run_after_gte=started.strftime("%Y-%m-%dT%H:%M:%S.%fZ"))
            tasks = [t for r in sorted(daily, key=lambda r: r["logical_date"]) for t in _tasks(api, DAILY, r)]
            tasks += [t for r in training for t in _tasks(api, TRAIN, r)]
        except NoAnswerError:
            if time.monotonic() - answered > _SILENT_S:
                raise
            time.sleep(_POLL_S)  # the web server is busy; asked again
            continue
        answered = time.monotonic()
        shown.show(tasks)
        _raise_on_failure(api, [(DAILY, r) for r in daily] + [(TRAIN, r) for r in training])
        if days == {r["logical_date"][:10] for r in daily} and all(r["state"] in _DONE for r in daily):
            daily_done_at = daily_done_at or time.monotonic()
            expected = any(t.task == "publish" and t.state == "success" for t in tasks)
            late = time.monotonic() - daily_done_at > _TRAIN_APPEARS_S
            if expected and not training and late:
                raise AirflowError(
                    f"{TRAIN} did not start within {_TRAIN_APPEARS_S:.0f} s after the tables were published; is it paused?"
                )
            if not expected or (training and all(r["state"] in _DONE for r in training)):
                return training
        time.sleep(_POLL_S)
    raise AirflowError(f"the runs did not end within {_LIMIT_S / 3600:.0f} hours; look at {api.url}")


def _tasks(api: AirflowApi, dag: str, run: dict[str, Any]) -> list[TaskState]:
    label = run["logical_date"][:10] if run["logical_date"] else "training"
    if run["state"] == "queued":
        return [TaskState(label, dag, "none", None)]
    found = []
    for task in sorted(api.tasks(dag, run["dag_run_id"]), key=lambda t: t.get("start_date") or "waiting"):
        index = task.get("rendered_map_index") or (task["map_index"] if task["map_index"] >= 0 else "")
        name = f"{task['task_id']} {index}".strip()
        found.append(TaskState(label, name, task["state"] or "none", task["duration"]))
    return found


def _raise_on_failure(api: AirflowApi, runs: list[tuple[str, dict[str, Any]]]) -> None:
    for dag, run in runs:
        if run["state"] != "failed":
            continue
        for task in api.tasks(dag, run["dag_run_id"]):
            if task["state"] == "failed":
                log = log_tail(api, dag, run["dag_run_id"], task)
                raise AirflowError(
                    f"task {task['task_id']} of {dag} {(run['logical_date'] or 'by hand')[:10]} failed; its log ends with:\n{log}"
                )
        raise AirflowError(f"run {run['dag_run_id']} of {dag} failed; see {api.url}/dags/{dag}/runs/{run['dag_run_id']}")


def log_tail(api: AirflowApi, dag: str, run: str, task: dict[str, Any]) -> str:
    """Last lines of a task's log, those that start with `error:` first."""
    path = f"/dags/{dag}/dagRuns/{run}/taskInstances/{task['task_id']}/logs/{max(1, task['try_number'])}"
    try:
        content = api.call("GET", path, map_index=task["map_index"], full_content="true")["content"]
    except AirflowError as error:
        return f"(its log cannot be read: {error})"
    lines = [str(c["event"]) if isinstance(c, dict) else str(c) for c in content]
    errors = [text for text in lines if "error:" in text]
    return "\n".join(errors[-3:] or lines[-_SHOWN_LINES:])[:4_000]
