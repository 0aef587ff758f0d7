"""The few calls of Airflow's REST API that we use."""

import json
import time
from collections.abc import Iterable
from typing import Any

import httpx

from feature_store.errors import MovelineError
from feature_store.home import home
from jobs.airflow_env import password_file

_TRIES = 6
_BUSY = (500, 503)
_OF_THE_DATABASE = ("database error", "database is locked")
"""What an error of the database says, in whatever case: Airflow 3.3.2 answers 500 "Database error" and, where a backfill met
the other writer in its own code, 503 "Database is locked"."""

_PAGE = 100
"""Rows of one answer: Airflow gives no more, whatever is asked for."""


class AirflowError(MovelineError):
    """Airflow refused a request, or a run failed."""


class NoAnswerError(AirflowError):
    """Airflow cannot be reached, or lets nobody in yet; it may later."""


class BusyError(AirflowError):
    """Airflow's database refused the request: with SQLite, mostly for another writer. What one request writes is undone."""


class AirflowApi:
    """A signed-in client of the local Airflow at `url`, as user `admin`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._token = ""

    def _sign_in(self) -> None:
        try:
            password = json.loads(password_file().read_text())["admin"]
        except (OSError, ValueError, KeyError) as error:
            raise NoAnswerError(
                f"no password for `admin` of {self.url} in {password_file()}; `moveline down`, then `moveline up` writes one"
            ) from error
        try:
            answer = httpx.post(f"{self.url}/auth/token", json={"username": "admin", "password": password}, timeout=20)
            answer.raise_for_status()
            self._token = answer.json()["access_token"]
        except (httpx.HTTPError, ValueError, KeyError) as error:
            raise self._no_answer(error) from error

    def _no_answer(self, error: Exception) -> NoAnswerError:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        return NoAnswerError(f"Airflow at {self.url} does not answer ({reason}); see its logs in {home() / 'logs'}, or start it "
                             "again with `moveline down` and `moveline up`")

    def call(self, method: str, path: str, body: Any = None, **query: Any) -> Any:
        """One request below /api/v2; the answer's JSON.

        Raises
        ------
        AirflowError : Airflow answered with an error; the message names the request and Airflow's reason.
        BusyError : that was its database. Anything but a POST was asked for several times before.
        NoAnswerError : it cannot be reached; the message names the address.
        """
        for attempt in range(_TRIES):
            if not self._token:
                self._sign_in()
            try:
                answer = httpx.request(method, f"{self.url}/api/v2{path}", json=body, params=query or None, timeout=60,
                                       headers={"Authorization": f"Bearer {self._token}"})
            except httpx.HTTPError as error:
                raise self._no_answer(error) from error
            if attempt == _TRIES - 1:
                break
            if answer.status_code == 401:
                self._token = ""  # expired
            elif answer.status_code in _BUSY and method != "POST":
                time.sleep(1.0 + attempt)  # SQLite has one writer: the scheduler held it
            else:
                break
        if answer.is_error:
            reason = _reason(answer)
            busy = answer.status_code in _BUSY and any(word in reason.casefold() for word in _OF_THE_DATABASE)
            raise (BusyError if busy else AirflowError)(f"Airflow refused {method} {path}: {answer.status_code} {reason}")
        return answer.json() if answer.content else None

    def has_dags(self, names: Iterable[str]) -> bool:
        """Whether the DAGs are known. Raises AirflowError when a DAG file does not import."""
        broken = self.call("GET", "/importErrors")["import_errors"]
        if broken:
            last = broken[0]["stack_trace"].strip().splitlines()[-1]
            raise AirflowError(f"{broken[0]['filename']} does not import: {last}")
        known = {d["dag_id"] for d in self.call("GET", "/dags", limit=100, exclude_stale=True)["dags"]}
        return set(names) <= known

    def ensure_pool(self, name: str, slots: int, description: str) -> None:
        """Create a pool unless it exists."""
        known = {p["name"] for p in self.call("GET", "/pools", limit=100)["pools"]}
        if name not in known:
            self.call("POST", "/pools", {"name": name, "slots": slots, "description": description, "include_deferred": False})

    def pause(self, dag: str, paused: bool) -> None:
        """Keep the scheduler from starting anything of a DAG, or let it."""
        self.call("PATCH", f"/dags/{dag}", {"is_paused": paused})

    def backfill(self, dag: str, first: str, last: str) -> int:
        """Queue one run a day, both ends inclusive, days that ran before included; the backfill's id.

        Airflow refuses when SQLite is busy, with part of it made: that part is given up, and it is asked again.
        """
        body = {"dag_id": dag, "from_date": f"{first}T00:00:00Z", "to_date": f"{last}T00:00:00Z", "max_active_runs": 1,
                "reprocess_behavior": "completed", "run_backwards": False}
        for attempt in range(_TRIES):
            try:
                return int(self.call("POST", "/backfills", body)["id"])
            except BusyError:
                if attempt == _TRIES - 1:
                    raise
                time.sleep(2.0 + attempt)
                self.abandon(dag)
        raise AirflowError(f"no backfill of {dag} could be made")

    def abandon(self, dag: str) -> None:
        """Give up backfills and runs that an interrupted session left behind: nobody works on them, and they block new ones."""
        for backfill in self.call("GET", "/backfills", dag_id=dag)["backfills"]:
            if backfill["completed_at"] is None:
                self.call("PUT", f"/backfills/{backfill['id']}/cancel")
        for run in self.runs(dag, state=["queued", "running"]):
            self.call("PATCH", f"/dags/{dag}/dagRuns/{run['dag_run_id']}", {"state": "failed"})

    def runs(self, dag: str, **where: Any) -> list[dict[str, Any]]:
        """All runs of a DAG that meet some filters of Airflow's, oldest first: a run made while pages are read comes last."""
        found: list[dict[str, Any]] = []
        while True:
            page = self.call("GET", f"/dags/{dag}/dagRuns", limit=_PAGE, offset=len(found), order_by="run_after", **where)
            found += page["dag_runs"]
            if len(page["dag_runs"]) < _PAGE:
                return found

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        """Task instances of one run."""
        return list(self.call("GET", f"/dags/{dag}/dagRuns/{run}/taskInstances", limit=200)["task_instances"])


def _reason(answer: httpx.Response) -> str:
    try:
        detail = answer.json().get("detail", answer.text)
    except ValueError:
        detail = answer.text
    return str(detail)[:300]
