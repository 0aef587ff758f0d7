"""Every model of the catalog as a registered version behind MLflow's own scoring app, in process, and in a process of its own."""

import csv
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from mlflow.pyfunc import scoring_server
from starlette.testclient import TestClient

from models.kinds import READS
from models.registry import Registry, Version, load
from tests.models.served import encoded_scores, whole_candidate, whole_example

NAMES = sorted(READS)
FUZZED = {"pages": "amen", "pairs": "item2vec", "flows": "nif"}
"""A model of each kind; amen has all that a page can lead to, with its generator."""

CLEAN = """
import importlib.abc, json, os, sys


class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("pyspark", "petastorm", "airflow", "jobs"):
            raise ModuleNotFoundError(name)


sys.meta_path.insert(0, Absent())
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
import fractions, pickle
import mlflow
import pandas as pd
import torchrec

unpickled = []
sys.addaudithook(lambda event, given: unpickled.append(given) if event == "pickle.find_class" else None)
mlflow.set_tracking_uri(sys.argv[1])
found = {}
for uri in sys.argv[3:]:
    rows = pd.read_json(f"{sys.argv[2]}/{uri.split('/')[1]}.json", orient="split", convert_dates=False, dtype=False)
    found[uri] = mlflow.pyfunc.load_model(uri).predict(rows).iloc[:, 0].to_list()
import models
before = list(unpickled)
pickle.loads(pickle.dumps(fractions.Fraction(1, 2)))
print(json.dumps({"found": found, "code": models.__file__, "unpickled": before, "then": unpickled[len(before):]}))
"""
"""A process without Spark, petastorm, Airflow and our checkout: MLflow alone loads the versions, with the code they carry. It
writes down every class that is unpickled, and at the end unpickles one to show that it would."""


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A registry of its own; MLflow's app sets a variable of the environment, which goes again."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("rest")
        patch.setenv("MOVELINE_HOME", str(folder))
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.setenv("_MLFLOW_IS_IN_SERVING_ENVIRONMENT", "false")
        yield folder


@pytest.fixture(scope="module")
def versions(state: Path) -> dict[str, Version]:
    registry = Registry()
    return {name: registry.register(whole_candidate(state / "made" / name, name)) for name in NAMES}


@pytest.fixture(scope="module")
def clients(versions: dict[str, Version]) -> Iterator[dict[str, TestClient]]:
    """By model, the app that `mlflow models serve` runs: this expression is what its module `scoring_server.app` holds. What the
    app does not catch is answered as its server does, with 500."""
    load(versions["din"].uri)  # sets the address of the registry
    apps = {name: scoring_server.init(scoring_server.load_model_with_mlflow_config(own.uri)) for name, own in versions.items()}
    with ExitStack() as stack:  # entered, a client keeps its event loop
        yield {name: stack.enter_context(TestClient(app, raise_server_exceptions=False)) for name, app in apps.items()}


def ask(client: TestClient, body: bytes, content_type: str | None = "application/json") -> httpx.Response:
    return client.post("/invocations", content=body, headers={} if content_type is None else {"content-type": content_type})


def mlflows_own(answer: httpx.Response) -> bool:
    """Is this the trace that MLflow sends of a CSV or Parquet body which is none? See `test_what_mlflow_answers_itself`."""
    return answer.json()["message"].startswith("Failed to parse input as a Pandas DataFrame.")


def assert_scored_or_refused(answer: httpx.Response) -> None:
    assert answer.status_code in (200, 400, 415), answer.text
    said = answer.json() if answer.status_code != 415 else {}
    if answer.status_code == 200:
        given = [next(iter(row.values())) for row in said["predictions"]]
        assert np.isfinite(values([0.0, *given])).all()
    assert "stack_trace" not in said or mlflows_own(answer), said["stack_trace"]


def values(rows: Any) -> np.ndarray:
    """Scores or flows of rows, one after the other."""
    return np.concatenate([np.ravel(row) for row in rows])


@pytest.mark.parametrize("name", NAMES)
def test_rest_and_predict_give_the_scores_of_the_encoded_rows(
        clients: dict[str, TestClient], versions: dict[str, Version], state: Path, name: str) -> None:
    rows, expected = whole_example(name), encoded_scores(state / "made" / name / "artifact", name)
    assert np.std(expected) > 1e-3, "scores that do not differ would prove nothing"
    answer = ask(clients[name], json.dumps({"dataframe_records": rows.to_dict(orient="records")}).encode())
    assert answer.status_code == 200, answer.text
    given = [next(iter(row.values())) for row in answer.json()["predictions"]]
    assert len(given) == len(rows) and len(values(given)) == len(expected)
    assert np.abs(values(given) - expected).max() < 1e-5
    assert np.abs(values(load(versions[name].uri).predict(rows).iloc[:, 0]) - expected).max() < 1e-5


def test_a_process_without_spark_airflow_and_our_checkout_scores_alike_and_unpickles_nothing(
        versions: dict[str, Version], state: Path, tmp_path: Path) -> None:
    for name, own in versions.items():
        (tmp_path / f"{own.name}.json").write_text(whole_example(name).to_json(orient="split"))
    run = subprocess.run([sys.executable, "-c", CLEAN, Registry().uri, str(tmp_path), *(own.uri for own in versions.values())],
                         capture_output=True, text=True, timeout=500, check=False, cwd=tmp_path)
    assert run.returncode == 0, run.stderr[-2000:]
    answer = json.loads(run.stdout.splitlines()[-1])
    assert "/code/models/" in answer["code"]
    for name, own in versions.items():
        expected = encoded_scores(state / "made" / name / "artifact", name)
        assert np.abs(values(answer["found"][own.uri]) - expected).max() < 1e-5, name
    assert answer["unpickled"] == [] and answer["then"] == [["fractions", "Fraction"]]


TYPES = ("application/json", "text/csv", "application/vnd.apache.parquet", "application/json; charset=utf-8",
         "application/json; charset=latin-1", "application/json; boundary=x", "text/plain", "")
WORDS = st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), max_size=20)
PLAIN = (st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6)
         | st.sampled_from(["i1", "c1", "", "\ud83d", 2**63, -(2**63) - 1, 10**400, float("inf")]))
KEYS = st.text(max_size=3) | st.sampled_from(["dataframe_records", "dataframe_split", "inputs", "instances", "params", "columns",
                                              "data", "index", "messages", "item_id", "left_item"])
ANY_JSON = st.recursive(PLAIN, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=8)
ANY_REST = st.dictionaries(st.sampled_from(["index", "params", "columns"]) | KEYS, ANY_JSON, max_size=2)
FORMS = ("dataframe_records", "dataframe_split", "instances", "inputs", "csv")
fuzzed = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.mark.parametrize("name", FUZZED.values())
@fuzzed
@given(body=st.binary(max_size=40) | st.text(max_size=40).map(str.encode), content_type=st.sampled_from(TYPES) | WORDS)
def test_any_bytes_of_any_content_type_are_refused(
        clients: dict[str, TestClient], name: str, body: bytes, content_type: str) -> None:
    assert_scored_or_refused(ask(clients[name], body, content_type))


@pytest.mark.parametrize("name", FUZZED.values())
@fuzzed
@given(body=ANY_JSON | st.dictionaries(KEYS, ANY_JSON, min_size=1, max_size=3))
def test_any_json_is_refused(clients: dict[str, TestClient], name: str, body: Any) -> None:
    assert_scored_or_refused(ask(clients[name], json.dumps(body).encode()))


@pytest.mark.parametrize("name", FUZZED.values())
@fuzzed
@given(cells=st.lists(st.tuples(st.integers(0, 40), ANY_JSON), max_size=3), form=st.sampled_from(FORMS),
       columns=st.lists(st.tuples(st.integers(0, 40), st.integers(0, 40)), max_size=1), rest=st.just({}) | ANY_REST)
def test_good_rows_with_other_cells_are_scored_or_refused(
        clients: dict[str, TestClient], name: str, cells: list[tuple[int, Any]], form: str, columns: list[tuple[int, int]],
        rest: dict[str, Any]) -> None:
    rows = whole_example(name)
    names, data = list(rows), rows.head(2).to_numpy().tolist()
    for place, cell in cells:
        data[place % 2][place % len(names)] = cell
    for place, other in columns:
        names[place % len(names)] = names[other % len(names)]
    assert_scored_or_refused(send(clients[name], form, names, data, rest))


ODD = (None, True, -1, 1.5, 2**63, float("nan"), "", "\ud83d", [], [None], [1], ["x"], [2**63], [[]], {"x": 1})


@pytest.mark.parametrize("name", FUZZED.values())
def test_every_column_may_hold_anything(clients: dict[str, TestClient], name: str) -> None:
    names, data = list(rows := whole_example(name)), rows.head(1).to_numpy().tolist()
    for place in range(len(names)):
        for cell in ODD:
            changed = [[cell if n == place else own for n, own in enumerate(data[0])]]
            assert_scored_or_refused(send(clients[name], "dataframe_records", names, changed, {}))


def send(client: TestClient, form: str, names: list[str], data: list[list[Any]], rest: dict[str, Any]) -> httpx.Response:
    """The answer to rows in one of `FORMS`; `rest` is what else the body holds."""
    if form == "csv":
        text = io.StringIO()
        csv.writer(text).writerows([names, *data])
        return ask(client, text.getvalue().encode(errors="surrogatepass"), "text/csv")
    records = [dict(zip(names, row, strict=True)) for row in data]
    columns = dict(zip(names, zip(*data, strict=True), strict=True))
    frames = {"dataframe_split": {"columns": names, "data": data} | rest, "inputs": columns}
    return ask(client, json.dumps({form: frames.get(form, records)} | rest).encode())


@pytest.mark.parametrize(("body", "content_type", "status"), [
    (b"{}", None, 500), (b"[" * 100_000, "application/json", 500), (b'{"inputs": ' + b"1" * 5_000 + b"}", "application/json", 500),
    (b"a,b", "text/csv", 400), (b"PAR1", "application/vnd.apache.parquet", 400)])
def test_what_mlflow_answers_itself(clients: dict[str, TestClient], body: bytes, content_type: str | None, status: int) -> None:
    """What no model is asked for. docs/security.md says it: when MLflow does better, this fails and the page can be shorter."""
    answer = ask(clients["din"], body, content_type)
    assert answer.status_code == status
    if status == 500:
        assert answer.text == "Internal Server Error"
    else:
        assert mlflows_own(answer) and "models/serving.py" not in answer.json()["stack_trace"]
