"""What the client does when Airflow's SQLite has one writer too many, told by answers in Airflow's own form."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from jobs import airflow_api
from jobs.airflow_api import AirflowApi, AirflowError, BusyError
from jobs.airflow_env import password_file

BUSY = {"detail": {"reason": "Database error", "statement": "hidden", "orig_error": "hidden", "message": "look for ID x"}}
LOCKED = {"detail": "Database is locked. Backfill creation is not supported on SQLite under concurrent access. Please use "
                    "PostgreSQL or MySQL."}
BACKFILL = "/api/v2/backfills"


@contextmanager
def airflow(refusals: list[tuple[int, dict]]) -> Iterator[tuple[str, list[str]]]:
    """Its address, and what it was asked; a backfill is refused with these answers, one after the other, then made."""
    asked: list[str] = []

    class Answers(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.partition("?")[0]
            if path.startswith("/api"):
                asked.append(f"{self.command} {path.removeprefix('/api/v2')}")
            status, body = 200, {"access_token": "t", "id": 7, "backfills": [{"id": 3, "completed_at": None}], "dag_runs": []}
            if (self.command, path) == ("POST", BACKFILL) and refusals:
                status, body = refusals.pop(0)
            content = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = do_PUT = answer

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", asked
        finally:
            server.shutdown()


@pytest.fixture(autouse=True)
def signed_in(tmp_path, monkeypatch):
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path))
    monkeypatch.setattr(airflow_api.time, "sleep", lambda _: None)
    password_file().parent.mkdir(parents=True, exist_ok=True)
    password_file().write_text(json.dumps({"admin": "x"}))


def test_a_backfill_that_a_busy_database_refused_is_given_up_and_asked_for_again():
    with airflow([(500, BUSY), (503, LOCKED)]) as (url, asked):
        assert AirflowApi(url).backfill("days", "2026-01-01", "2026-01-02") == 7
    given_up = ["GET /backfills", "PUT /backfills/3/cancel", "GET /dags/days/dagRuns"]
    assert asked == ["POST /backfills", *given_up, "POST /backfills", *given_up, "POST /backfills"]


def test_any_other_refusal_is_final():
    wanted = pytest.raises(AirflowError, match="Airflow refused POST /backfills: 500 no such day")
    with airflow([(500, {"detail": "no such day"})]) as (url, asked), wanted as caught:
        AirflowApi(url).backfill("days", "2026-01-01", "2026-01-02")
    assert asked == ["POST /backfills"] and not isinstance(caught.value, BusyError)
