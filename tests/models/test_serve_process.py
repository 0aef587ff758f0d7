"""A registered version behind `mlflow models serve`: a real server process, JSON in, scores out."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from feature_store.encoding import encode_pages
from jobs.processes import free_port
from models.artifact import load_artifact
from models.registry import Registry
from models.scoring import page_scores
from tests.models.registered import candidate, example, raw_pages, vocabulary

READY_S = 120.0
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("served")


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """Address of a server of the champion; the command is the one of docs/serving.md."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MOVELINE_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        registry = Registry()
        registry.set_alias(registry.register(candidate(folder / "made")))
    address = f"http://127.0.0.1:{(port := free_port(0))}"
    command = ["mlflow", "models", "serve", "-m", "models:/small-din@champion", "--env-manager", "local", "-h", "127.0.0.1",
               "-p", str(port)]
    beside = str(Path(sys.executable).parent)
    env = {**os.environ, "MLFLOW_TRACKING_URI": registry.uri, "PATH": f"{beside}:{os.environ['PATH']}", "OMP_NUM_THREADS": "1"}
    log = folder / "server.log"
    with log.open("w") as text:
        # A group of its own: mlflow starts the server as a child.
        process = subprocess.Popen(command, cwd=folder, env=env, stdout=text, stderr=text, start_new_session=True)
    try:
        stop = time.monotonic() + READY_S
        while not answers(address):
            assert process.poll() is None and time.monotonic() < stop, log.read_text()[-3_000:]
            time.sleep(0.2)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def answers(address: str) -> bool:
    try:
        return httpx.get(f"{address}/ping", timeout=5).is_success
    except httpx.HTTPError:
        return False


def ask(server: str, body: dict[str, Any]) -> httpx.Response:
    return httpx.post(f"{server}/invocations", json=body, timeout=60)


def test_a_page_of_raw_ids_as_json_gets_the_scores_of_the_encoded_page(server: str, folder: Path) -> None:
    page = example().iloc[:1]
    expected = page_scores(load_artifact(folder / "made" / "artifact"), encode_pages(raw_pages(2).slice(0, 1), vocabulary()))
    split = json.loads(page.to_json(orient="split", index=False))
    for body in ({"dataframe_records": page.to_dict(orient="records")}, {"dataframe_split": split}):
        answer = ask(server, body)
        assert answer.status_code == 200, answer.text
        (found,) = answer.json()["predictions"]
        assert len(found["scores"]) == len(page["item_id"].iloc[0])
        assert np.abs(np.array(found["scores"]) - expected).max() < 1e-5


def test_nulls_empty_lists_and_unknown_ids_are_scored(server: str) -> None:
    page = example().to_dict(orient="records")[0]
    nothing: dict[str, Any] = {name: [] for name in page if name.startswith(("moveline_", "visit_"))}
    rows = [page, {**page, **nothing}, {**page, "trigger_item_id": None, "price": [None] * len(page["price"])},
            {**page, "item_id": ["never seen"] * len(page["item_id"])}]
    answer = ask(server, {"dataframe_records": rows})
    assert answer.status_code == 200, answer.text
    scores = np.array([row["scores"] for row in answer.json()["predictions"]])
    assert scores.shape == (4, len(page["item_id"])) and np.isfinite(scores).all()


def test_bad_input_gets_status_400_and_the_name_of_the_column(server: str) -> None:
    page = example().to_dict(orient="records")[0]
    cases: list[tuple[dict[str, Any], str]] = [
        ({k: v for k, v in page.items() if k != "price"}, "missing inputs ['price']"),
        ({**page, "position": ["first"] * len(page["position"])}, "column position"),
        ({**page, "price": page["price"][:-1]}, "price has"),
        ({**page, "cut_time": "yesterday"}, "column cut_time"),
        ({**page, "position": [2**40] * len(page["position"])}, "column position"),
    ]
    for row, says in cases:
        answer = ask(server, {"dataframe_records": [row]})
        assert answer.status_code == 400 and says in answer.json()["message"], answer.text
        assert "stack_trace" not in answer.json()


@pytest.mark.drill
def test_half_a_minute_of_load_from_another_process_is_answered_without_an_error(
        server: str, folder: Path, record_property: Callable[[str, object], None]) -> None:
    page = folder / "page.json"
    page.write_text(json.dumps({"dataframe_records": example().iloc[:1].to_dict(orient="records")}))
    load = subprocess.run([sys.executable, "benchmarks/rest_load.py", server, str(page), "--seconds", "30"], cwd=ROOT,
                          capture_output=True, text=True, check=False)
    assert load.returncode == 0, load.stdout + load.stderr
    said, found = load.stdout.splitlines()[0], json.loads(load.stdout.splitlines()[1])
    assert found["errors"] == 0 and found["requests"] > 300 and found["seconds"] >= 30
    record_property("measured", f"REST: {said}")
