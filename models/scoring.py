"""Scores of a trained model for encoded pages and pairs, in bounded memory. Loads torch, never Spark or petastorm."""

from collections.abc import Iterable, Iterator

import numpy as np
import pyarrow as pa
import torch

from feature_store.batch import TABLES
from feature_store.collate import page_batch, pair_batch
from feature_store.errors import ModelError
from models.base import Model
from models.metrics import Floats

PAGES_AT_ONCE = 512
PAIRS_AT_ONCE = 65_536
_ANY = 2**62


@torch.no_grad()
def page_scores(model: Model, pages: pa.Table, flow: np.ndarray | None = None) -> Floats:
    """[N] click probability of every shown item of encoded pages (`feature_store.encoding.ENCODED_PAGES`), page after page.

    Parameters
    ----------
    flow : [B, K, d] float32, of a model with a generator (`models.generator`).

    Raises
    ------
    TableError : an index lies outside the model's tables (the pages were encoded with another vocabulary).
    ModelError : a score is not finite.
    """
    rows = _table_rows(model)
    batches = (page_batch(part, rows, None if flow is None else flow[n * PAGES_AT_ONCE:(n + 1) * PAGES_AT_ONCE])
               for n, part in enumerate(slices(pages, PAGES_AT_ONCE)))
    return _finite(model, [torch.sigmoid(model.logits(model(batch)).double()).numpy() for batch in batches])


@torch.no_grad()
def pair_scores(model: Model, pairs: pa.Table) -> Floats:
    """[M] similarity of every encoded pair (`feature_store.encoding.ENCODED_PAIRS`); raises as `page_scores`."""
    rows = _table_rows(model)
    parts = [model.logits(model(pair_batch(part, rows))).double().numpy() for part in slices(pairs, PAIRS_AT_ONCE)]
    return _finite(model, parts)


def slices(table: pa.Table, rows: int) -> Iterator[pa.Table]:
    """The table in parts of at most `rows` rows; nothing for an empty one."""
    return (table.slice(start, rows) for start in range(0, len(table), rows))


def _table_rows(model: Model) -> dict[str, int]:
    # Tables the model lacks are not looked up: any index may stand in their features.
    return {table: model.rows.get(table, _ANY) for table in TABLES}


def _finite(model: Model, parts: Iterable[Floats]) -> Floats:
    found = np.concatenate([np.zeros(0), *parts])
    wrong = int((~np.isfinite(found)).sum())
    if wrong:
        raise ModelError(f"model {model.name}: {wrong} of {len(found)} scores are not finite; train it again")
    return found
