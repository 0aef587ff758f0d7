"""Encoded rows (Arrow) -> batches of tensors. Loads torch, never Spark or petastorm: serving shares it."""

from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from feature_store.batch import (
    CANDIDATE_DENSE,
    FEATURES,
    FLOW_FEATURES,
    FLOW_TABLES,
    PAIR_FEATURES,
    PAIR_TABLES,
    TABLES,
    VISIT_DENSE,
    FlowBatch,
    PageBatch,
    PairBatch,
)
from feature_store.encoding import ENCODED_FLOWS, ENCODED_PAGES, ENCODED_PAIRS, FUTURE_FEATURES
from feature_store.errors import TableError
from feature_store.negatives import Pool

PAGE_COLUMNS = [name for name in ENCODED_PAGES.names if name not in ("page_id", "user_id")]
"""Columns of `ENCODED_PAGES` that a batch is made of."""

PAIR_COLUMNS = list(ENCODED_PAIRS.names)
FLOW_COLUMNS = [name for name in ENCODED_FLOWS.names if name != "user_id"]
"""Columns of `ENCODED_FLOWS` that a batch is made of."""

_TABLE_OF = {feature: table for tables in (TABLES, PAIR_TABLES, FLOW_TABLES) for table, features in tables.items()
             for feature in features}


def page_batch(pages: pa.Table, rows: Mapping[str, int], flow: np.ndarray | None = None) -> PageBatch:
    """Encoded pages as one batch.

    Parameters
    ----------
    pages : columns `PAGE_COLUMNS` of `encoding.ENCODED_PAGES`, B rows. rows : embedding table -> its rows.
    flow : [B, K, d] float32, see `PageBatch.flow`.

    Raises
    ------
    TableError : an index is outside its table (a sharded table would silently take row 0), or a column is missing.
    """
    dense = [torch.from_numpy(np.stack([flat(pages, c) for c in names], axis=1)) for names in (CANDIDATE_DENSE, VISIT_DENSE)]
    clicked, weight = (torch.from_numpy(flat(pages, c).copy()) for c in ("clicked", "weight"))
    user, row, time = (torch.from_numpy(flat(pages, c).copy()) for c in ("user", "row", "cut_time"))
    ahead = None if flow is None else torch.from_numpy(flow)
    return PageBatch(jagged(pages, FEATURES, rows), dense[0], dense[1], clicked, weight, user, row, time, ahead)


def pair_batch(pairs: pa.Table, rows: Mapping[str, int]) -> PairBatch:
    """Encoded pairs (`encoding.ENCODED_PAIRS`) as one batch; raises as `page_batch` does."""
    kind, weight, page = (torch.from_numpy(flat(pairs, c).copy()) for c in ("kind", "weight", "page"))
    return PairBatch(jagged(pairs, PAIR_FEATURES, rows), kind, weight, page)


def flow_batch(flows: pa.Table, rows: Mapping[str, int], part: np.ndarray, pool: Pool,
               drawn: tuple[np.ndarray, np.ndarray, np.ndarray]) -> FlowBatch:
    """Encoded cuts of walks as one batch.

    Parameters
    ----------
    flows : columns `FLOW_COLUMNS` of `encoding.ENCODED_FLOWS`, R rows. rows : embedding table -> its rows. part : [R] int64.
    pool : says how often each future serves as a negative. drawn : sampled negatives, from `Pool.draw`.

    Raises
    ------
    TableError : as `page_batch`.
    """
    item, category, negative_logq = drawn
    for name, values in (("negative_item", item), ("negative_category", category)):
        offsets = np.r_[0, np.full(len(flows), len(values))].astype(np.int32)
        flows = flows.append_column(name, pa.ListArray.from_arrays(offsets, pa.array(values)))
    dense = torch.from_numpy(np.stack([flat(flows, c) for c in VISIT_DENSE], axis=1))
    user, row, time = (torch.from_numpy(flat(flows, c).copy()) for c in ("user", "row", "cut_time"))
    return FlowBatch(jagged(flows, FLOW_FEATURES, rows), dense, torch.from_numpy(pool.log_share(flat(flows, "future_item"))),
                     torch.from_numpy(negative_logq), user, row, torch.from_numpy(part), time, (row >= 0).float())


def flow_of_rows(flow: np.ndarray, row: np.ndarray) -> np.ndarray:
    """[len(row), K, d] the flow of some pages by their row; 0 for padding pages, whose row is -1."""
    if not len(flow):
        return np.zeros((len(row), *flow.shape[1:]), np.float32)
    found = np.asarray(flow[np.maximum(row, 0)])
    found[row < 0] = 0.0
    return found


def jagged(table: pa.Table, keys: Sequence[str], rows: Mapping[str, int] | None = None) -> KeyedJaggedTensor:
    """Columns of whole numbers, or of lists of them, as a KeyedJaggedTensor of stride len(table).

    Parameters
    ----------
    keys : columns, in order. rows : embedding table -> rows, to check the indexes by; None checks nothing.
    """
    values = [flat(table, key) for key in keys]
    if rows is not None:
        for key, found in zip(keys, values, strict=True):
            _inside(key, found, rows[_TABLE_OF[key]])
    counts = np.concatenate([lengths(table, key) for key in keys])
    return KeyedJaggedTensor(keys=list(keys), values=torch.from_numpy(np.concatenate(values)), lengths=torch.from_numpy(counts))


def _inside(key: str, values: np.ndarray, rows: int) -> None:
    if len(values) and (values.max() >= rows or values.min() < 0):
        found = values.max() if values.max() >= rows else values.min()
        raise TableError(f"feature {key}: index {found} is outside its table of {rows} rows; encode with the vocabulary the tables "
                         "were sized for, or grow the tables")


def flat(table: pa.Table, name: str) -> np.ndarray:
    """The values of a column, those of a list column one list after the other."""
    chunks = _column(table, name).chunks
    parts = [(c.flatten() if pa.types.is_list(c.type) else c).to_numpy(zero_copy_only=False) for c in chunks]
    if len(parts) == 1:
        return parts[0]
    kind = table.schema.field(name).type
    return np.concatenate(parts) if parts else np.empty(0, (kind.value_type if pa.types.is_list(kind) else kind).to_pandas_dtype())


def lengths(table: pa.Table, name: str) -> np.ndarray:
    """[len(table)] int32: how many values each row has; 1 for a column without lists."""
    column = _column(table, name)
    if not pa.types.is_list(column.type):
        return np.ones(len(table), np.int32)
    parts = [np.diff(chunk.offsets.to_numpy()) for chunk in column.chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def renumbered(table: pa.Table, name: str, index: np.ndarray) -> pa.Array:
    """A column of indexes, or of lists of them, with `index[i]` in place of every i."""
    values = pa.array(index[flat(table, name)])
    if not pa.types.is_list(table.schema.field(name).type):
        return values
    return pa.ListArray.from_arrays(np.r_[0, np.cumsum(lengths(table, name))].astype(np.int32), values)


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    if name not in table.column_names:
        raise TableError(f"encoded rows have no column {name}; encode them again with this version")
    return table[name]


def padding_page() -> pa.Table:
    """A page that counts for nothing: one item of index 0 and weight 0, no history, row and user -1."""
    shown = ("candidate_item", "candidate_category", "candidate_position", *CANDIDATE_DENSE, "clicked", "weight")
    schema = pa.schema([ENCODED_PAGES.field(c) for c in PAGE_COLUMNS])
    row = {f.name: [0] if f.name in shown else [] if pa.types.is_list(f.type) else 0 for f in schema}
    return pa.Table.from_pylist([row | {"row": -1, "user": -1, "n_items": 1}], schema=schema)


def padding_pair() -> pa.Table:
    """A pair of weight 0 between two paddings, of page -1."""
    return pa.Table.from_pylist([{name: 0 for name in ENCODED_PAIRS.names} | {"page": -1}], schema=ENCODED_PAIRS)


def padding_flow() -> pa.Table:
    """A cut that counts for nothing: one future of index 0, no history, row and user -1."""
    schema = pa.schema([ENCODED_FLOWS.field(c) for c in FLOW_COLUMNS])
    row = {f.name: [0] if f.name in FUTURE_FEATURES else [] if pa.types.is_list(f.type) else 0 for f in schema}
    return pa.Table.from_pylist([row | {"row": -1, "user": -1, "n_items": 1}], schema=schema)
