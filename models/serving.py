"""The deployed form of a model: rows with raw ids in, scores out. MLflow runs this file when it loads a version (models from code).

A version carries this code, its weights as safetensors and its vocabulary. Loading it unpickles nothing and imports neither Spark
nor petastorm nor Airflow.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import BAD_REQUEST
from mlflow.pyfunc import PythonModel

from feature_store.contracts import PAGES, TIME
from feature_store.encoding import ENCODED_PAIRS, encode_history, encode_pages
from feature_store.errors import InputError
from feature_store.vocabulary import Vocabulary
from models.artifact import VOCABULARY, describe, load_artifact
from models.generator import Generator, beside
from models.scoring import page_scores, pair_scores

SHOWN = ("item_id", "category_id", "position", "price")
TOKENS = ("moveline_time", "moveline_scene", "moveline_action", "moveline_item", "moveline_category")
VISITS = ("visit_time", "visit_scene", "visit_dwell_ms", "visit_shown", "visit_clicked", "visit_carted", "visit_category")
SINGLE = ("page_id", "user_id", "scene", "scenario", "trigger_item_id", "trigger_category_id", "cut_time")
PAGE_COLUMNS = (*SINGLE, *SHOWN, *TOKENS, *VISITS)
"""Columns of a page to score: those of the table `pages` that are known when it is shown. Times are unix microseconds, a missing
text is "" and a missing price 0 (MLflow's lists hold no nulls)."""

FLOW_COLUMNS = ("user_id", "cut_time", *TOKENS, *VISITS)
"""Columns of what a generator reads: those of the table `flows` that are known at the cut, in the form of `PAGE_COLUMNS`."""

PAIR_COLUMNS = ("left_item", "right_item", "left_category", "right_category")
"""Columns of a pair to score; a category that is not known is ""."""

NAMES = ("page_id", "user_id")
"""Columns that name a row and are no word of a vocabulary: nobody's name is ""."""


MAX_ROWS = 10_000
"""Rows of one request."""

MAX_BYTES = 64 << 20
"""Size of what is in one request, as Arrow has it."""


class RefusedInput(MlflowException, InputError):
    """Input that cannot be scored. MLflow's server sends its message with HTTP 400; of another exception it sends a stack trace."""

    def __init__(self, message: str) -> None:
        MlflowException.__init__(self, message, error_code=BAD_REQUEST)


def serving_pages(pages: pa.Table, wanted: tuple[str, ...] = PAGE_COLUMNS) -> pd.DataFrame:
    """Rows of the table `pages` (or `flows`, with `FLOW_COLUMNS`) in the form a deployed model takes."""
    columns: dict[str, Any] = {}
    for name in wanted:
        kind = PAGES.schema.field(name).type
        values = pages[name].cast(pa.list_(pa.int64()) if _many_times(kind) else pa.int64() if kind == TIME else kind).to_pylist()
        if pa.types.is_list(kind):
            empty: Any = "" if kind.value_type == pa.string() else 0
            values = [[empty if v is None else v for v in row] for row in values]
        columns[name] = values
    return pd.DataFrame(columns)


class Deployed(PythonModel):
    """A registered model. Pages get `scores`, a click probability for each item of `item_id` in its order; pairs get `score`.

    Cuts of walks get `flow`: K unit vectors of d numbers, one after the other. A model that reads a flow carries its generator.
    """

    def load_context(self, context: Any) -> None:
        """Read weights and vocabulary; called once by MLflow (which needs the parameter to be called `context`)."""
        folder = Path(context.artifacts["model"])
        self.reads = describe(folder)["reads"]
        self.model = load_artifact(folder)
        self.vocabulary = Vocabulary.load(folder / VOCABULARY)
        self.generator = Generator(folder) if self.reads == "flows" else beside(folder, self.vocabulary)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Scores of pages (columns `PAGE_COLUMNS`) or pairs (`PAIR_COLUMNS`), or flows of cuts (`FLOW_COLUMNS`).

        Raises
        ------
        RefusedInput : a column is missing, holds another type, or lists that belong together have different lengths. Or there are
            more than `MAX_ROWS` rows or `MAX_BYTES`.
        """
        if len(model_input) > MAX_ROWS:
            raise RefusedInput(f"the request has {len(model_input)} rows; send at most {MAX_ROWS} at once")
        if self.reads == "pairs":
            return self._pairs(model_input)
        if self.reads == "flows":
            return self._flows(model_input)
        encoded = encode_pages(to_pages(model_input), self.vocabulary)
        scores = page_scores(self.model, encoded, self.generator.flow(encoded) if self.generator else None)
        ends = np.cumsum(model_input["item_id"].map(len).to_numpy(np.int64))[:-1] if len(model_input) else []
        return pd.DataFrame({"scores": [part.tolist() for part in np.split(scores, ends)] if len(model_input) else []})

    def _flows(self, rows: pd.DataFrame) -> pd.DataFrame:
        history = encode_history(to_pages(rows, FLOW_COLUMNS, (TOKENS, VISITS)), self.vocabulary)
        found = self.generator.flow(history) if self.generator else np.zeros((0, 0, 0))
        return pd.DataFrame({"flow": [one.ravel().astype(np.float64).tolist() for one in found]})

    def _pairs(self, rows: pd.DataFrame) -> pd.DataFrame:
        given = _table(rows, dict.fromkeys(PAIR_COLUMNS, pa.string()))
        ids = [self.vocabulary.encode(name.split("_")[1], given[name]) for name in PAIR_COLUMNS]
        rest = np.zeros(len(rows), np.int64)
        pairs = pa.table([*ids, rest, np.ones(len(rows), np.float32), rest], schema=ENCODED_PAIRS)
        return pd.DataFrame({"score": pair_scores(self.model, pairs)})


def to_pages(rows: pd.DataFrame, wanted: tuple[str, ...] = PAGE_COLUMNS,
             together: tuple[tuple[str, ...], ...] = (SHOWN, TOKENS, VISITS)) -> pa.Table:
    """The rows a caller sent as a table for `encode_pages`; raises RefusedInput as `Deployed.predict` does."""
    found = _table(rows, {name: PAGES.schema.field(name).type for name in wanted})
    for group in together:
        length = rows[group[0]].map(len).to_numpy()
        for name in group[1:]:
            wrong = np.flatnonzero(rows[name].map(len).to_numpy() != length)
            if len(wrong):
                raise RefusedInput(f"row {wrong[0]}: {name} has {len(rows[name].iloc[wrong[0]])} values and {group[0]} has "
                                   f"{length[wrong[0]]}; they need one value each for the same things")
    return found


def _table(rows: pd.DataFrame, kinds: Mapping[str, pa.DataType]) -> pa.Table:
    """The columns of a request by name and type; every request goes through here."""
    missing = [name for name in kinds if name not in rows.columns]
    if missing:
        raise RefusedInput(f"the input lacks the columns {', '.join(missing)}; a row needs {', '.join(kinds)}")
    found = pa.table({name: _typed(rows, name, kind) for name, kind in kinds.items()})
    if found.nbytes > MAX_BYTES:
        raise RefusedInput(f"the request holds {found.nbytes} bytes; send at most {MAX_BYTES} at once")
    return found


def _typed(rows: pd.DataFrame, name: str, kind: pa.DataType) -> pa.Array:
    try:
        if not pa.types.is_list(kind):
            found = pa.array([None if v is None or v != v else v for v in rows[name]], pa.int64() if kind == TIME else kind)
            if name in NAMES:
                return found.fill_null("")
            return _times(found, kind) if kind == TIME else _no_blank(found)
        inner = kind.value_type
        found = pa.array([list(v) for v in rows[name]], pa.list_(pa.int64() if inner == TIME else inner))
        values = _times(found.flatten(), inner) if inner == TIME else _no_blank(found.flatten())
        return pa.ListArray.from_arrays(found.offsets, values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, TypeError, ValueError, OverflowError) as error:
        reason = str(error).splitlines()[0]
        raise RefusedInput(f"column {name}: {reason}; it must hold {kind}, times as unix microseconds") from error


def _times(values: pa.Array, kind: pa.DataType) -> pa.Array:
    if values.null_count:
        raise ValueError("a time is missing")
    return values.cast(kind)


def _no_blank(values: pa.Array) -> pa.Array:
    if values.type != pa.string():
        return values
    return pc.if_else(pc.equal(values, ""), pa.scalar(None, pa.string()), values)


def _many_times(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) and kind.value_type == TIME


mlflow.models.set_model(Deployed())
