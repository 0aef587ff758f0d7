"""Pages, pairs and flows with raw ids -> the numbers a model reads, still in Arrow; the training cache and serving share it.

Pure pyarrow and numpy, no loop over rows: a list column is its flat values and its lengths, and all is computed on the flat values.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from feature_store.contracts import PAIR_KINDS
from feature_store.errors import TableError
from feature_store.vocabulary import Vocabulary

AGE_BUCKETS = 64
LAST_POSITION = 255
BUCKET_ROWS = {"age": AGE_BUCKETS, "position": LAST_POSITION + 1, "hour": 32}
"""Rows of the tables that are not vocabularies; here and not in `batch`, which loads torch."""

_HOUR_US = 3_600_000_000

TOKEN_FEATURES = ("moveline_item", "moveline_category", "moveline_scene", "moveline_action", "moveline_age")
VISIT_FEATURES = ("visit_scene", "visit_category", "visit_age")
SHOWN_FEATURES = ("candidate_item", "candidate_category", "candidate_position")
FUTURE_FEATURES = ("future_item", "future_category", "future_scene", "future_action")
PAGE_FEATURES = ("trigger_item", "trigger_category", "scene", "scenario", "hour")
SHOWN_DENSE = ("price_score", "price_known", "seen_before")
VISIT_DENSE = ("log_dwell", "log_shown", "log_clicked", "log_carted")
LABELS = ("clicked", "weight")

_VISIT_AMOUNTS = (("log_dwell", "visit_dwell_ms", 1e-3), ("log_shown", "visit_shown", 1.0), ("log_clicked", "visit_clicked", 1.0),
                  ("log_carted", "visit_carted", 1.0))

_LONGS, _REALS = pa.list_(pa.int64()), pa.list_(pa.float32())
ENCODED_PAGES = pa.schema([
    ("page_id", pa.string()), ("user_id", pa.string()), ("row", pa.int64()), ("user", pa.int64()), ("cut_time", pa.int64()),
    ("n_items", pa.int64()),
    *((name, _LONGS) for name in (*TOKEN_FEATURES, *VISIT_FEATURES, *SHOWN_FEATURES)),
    *((name, pa.int64()) for name in PAGE_FEATURES),
    *((name, _REALS) for name in (*VISIT_DENSE, *SHOWN_DENSE, *LABELS)),
])
"""One page a row. row: place in the encoded set; user: dense number; cut_time: unix microseconds; lists as in `batch.PageBatch`."""

ENCODED_PAIRS = pa.schema([
    ("left", pa.int64()), ("right", pa.int64()), ("left_category", pa.int64()), ("right_category", pa.int64()),
    ("kind", pa.int64()), ("weight", pa.float32()), ("page", pa.int64()),
])
"""One pair a row: indexes of both items and of their categories (0: none known), place in `contracts.PAIR_KINDS`, inverse inclusion
probability, dense number of the page."""

ENCODED_FLOWS = pa.schema([
    ("user_id", pa.string()), ("row", pa.int64()), ("user", pa.int64()), ("cut_time", pa.int64()), ("n_items", pa.int64()),
    *((name, _LONGS) for name in (*TOKEN_FEATURES, *VISIT_FEATURES, *FUTURE_FEATURES)),
    *((name, _REALS) for name in VISIT_DENSE),
])
"""One cut of a walk a row, as `ENCODED_PAGES`; n_items: how many futures it has."""


@dataclass(frozen=True)
class _Lists:
    """A list column taken apart: flat values, and how many of them each row has."""

    values: pa.Array
    lengths: np.ndarray

    @property
    def row(self) -> np.ndarray:
        """The row of each flat value."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    def numbers(self, kind: type = np.float64) -> np.ndarray:
        """Flat values as numbers; null is nan (0 for whole numbers)."""
        fill = np.nan if kind is np.float64 else 0
        return self.values.cast(pa.from_numpy_dtype(kind)).fill_null(fill).to_numpy(zero_copy_only=False)

    def again(self, values: np.ndarray, kind: pa.DataType) -> pa.Array:
        """New flat values in the same lists."""
        offsets = np.zeros(len(self.lengths) + 1, np.int32)
        np.cumsum(self.lengths, out=offsets[1:])
        return pa.ListArray.from_arrays(offsets, pa.array(values, kind))


def encode_pages(pages: pa.Table, vocabulary: Vocabulary, first_row: int = 0, first_user: int = 0) -> pa.Table:
    """Encode pages.

    Parameters
    ----------
    pages : table with the columns of `contracts.PAGES` (labels may be missing when serving: no click, everything viewed).
    first_row, first_user : number of the first page and of the first user; users are numbered as they first occur.

    Returns
    -------
    table of `ENCODED_PAGES`, one row a page in the same order.

    Raises
    ------
    TableError : a column is missing, or lists that belong together have different lengths.
    """
    _need(pages, "page_id", "item_id")
    pages, history = pages.combine_chunks(), encode_history(pages, vocabulary)
    cut = history["cut_time"].to_numpy()
    tokens, shown = _lists(pages, "moveline_item"), _lists(pages, "item_id")
    columns: dict[str, pa.Array] = {
        **{name: history[name] for name in history.column_names}, "page_id": _whole(pages, "page_id"),
        "row": pa.array(np.arange(first_row, first_row + len(pages)), pa.int64()),
        "user": pa.array(_numbered(_whole(pages, "user_id")) + first_user, pa.int64()),
        "n_items": pa.array(shown.lengths, pa.int64()),
        "trigger_item": _single(pages, vocabulary, "item", "trigger_item_id"),
        "trigger_category": _single(pages, vocabulary, "category", "trigger_category_id"),
        "scene": _single(pages, vocabulary, "scene", "scene"), "scenario": _single(pages, vocabulary, "scenario", "scenario"),
        "hour": pa.array(cut // _HOUR_US % 24, pa.int64()), **_shown(pages, vocabulary, tokens, shown), **_labels(pages, shown),
    }
    return pa.table([columns[name] for name in ENCODED_PAGES.names], schema=ENCODED_PAGES)


def _tokens(pages: pa.Table, vocabulary: Vocabulary, tokens: _Lists, cut: np.ndarray) -> dict[str, pa.Array]:
    out = {"moveline_item": tokens.again(vocabulary.encode("item", tokens.values), pa.int64())}
    for field in ("category", "scene", "action"):
        own = _lists(pages, f"moveline_{field}", tokens)
        out[f"moveline_{field}"] = own.again(vocabulary.encode(field, own.values), pa.int64())
    return out | {"moveline_age": _ages(_lists(pages, "moveline_time", tokens), cut)}


def _visits(pages: pa.Table, vocabulary: Vocabulary, visits: _Lists, cut: np.ndarray) -> dict[str, pa.Array]:
    out = {"visit_age": _ages(_lists(pages, "visit_time", visits), cut)}
    for field in ("scene", "category"):
        own = _lists(pages, f"visit_{field}", visits)
        out[f"visit_{field}"] = own.again(vocabulary.encode(field, own.values), pa.int64())
    for name, source, unit in _VISIT_AMOUNTS:
        amount = np.nan_to_num(_lists(pages, source, visits).numbers()) * unit
        out[name] = visits.again(np.log1p(np.maximum(amount, 0.0)).astype(np.float32), pa.float32())
    return out


def _shown(pages: pa.Table, vocabulary: Vocabulary, tokens: _Lists, shown: _Lists) -> dict[str, pa.Array]:
    category, position = _lists(pages, "category_id", shown), _lists(pages, "position", shown)
    score, known = _price_score(_lists(pages, "price", shown))
    return {
        "candidate_item": shown.again(vocabulary.encode("item", shown.values), pa.int64()),
        "candidate_category": shown.again(vocabulary.encode("category", category.values), pa.int64()),
        "candidate_position": shown.again(np.clip(position.numbers(np.int64), 0, LAST_POSITION), pa.int64()),
        "price_score": shown.again(score, pa.float32()), "price_known": shown.again(known, pa.float32()),
        "seen_before": shown.again(_seen_before(tokens, shown), pa.float32()),
    }


def _labels(pages: pa.Table, shown: _Lists) -> dict[str, pa.Array]:
    out = {}
    for name, source, absent in (("clicked", "clicked", 0.0), ("weight", "viewed", 1.0)):
        given = source in pages.column_names
        values = _lists(pages, source, shown).numbers(np.int64) if given else np.full(len(shown.values), absent)
        out[name] = shown.again(values.astype(np.float32), pa.float32())
    return out


def _ages(times: _Lists, cut: np.ndarray) -> pa.Array:
    seconds = (cut[times.row] - _microseconds(times.values)) / 1e6
    bucket = (2 * np.log2(1 + np.maximum(seconds, 0.0))).astype(np.int64)
    return times.again(np.minimum(bucket, AGE_BUCKETS - 1), pa.int64())


def _microseconds(times: pa.Array) -> np.ndarray:
    return times.cast(pa.timestamp("us", tz="UTC")).cast(pa.int64()).to_numpy(zero_copy_only=False)


def _price_score(price: _Lists) -> tuple[np.ndarray, np.ndarray]:
    """z-score of the logarithm of the price among the known prices of its page; 0 where unknown or all are equal."""
    raw, row, pages = price.numbers(), price.row, len(price.lengths)
    known = np.isfinite(raw) & (raw > 0)
    log = np.log(np.where(known, raw, 1.0))
    count = np.maximum(np.bincount(row, known, pages), 1)
    off = np.where(known, log - (np.bincount(row, log * known, pages) / count)[row], 0.0)
    spread = np.sqrt(np.bincount(row, off**2, pages) / count)[row]
    return np.where(spread > 1e-6, off / np.maximum(spread, 1e-6), 0.0).astype(np.float32), known.astype(np.float32)


def _seen_before(tokens: _Lists, shown: _Lists) -> np.ndarray:
    # On raw ids, not on indexes: two unknown items may share a bucket.
    both = pa.concat_arrays([tokens.values, shown.values]).dictionary_encode()
    codes = both.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int64)
    keys = np.concatenate([tokens.row, shown.row]) * (len(both.dictionary) + 1) + codes
    before, asked = np.split(keys, [len(tokens.values)])
    return np.isin(asked, before[codes[: len(before)] >= 0]).astype(np.float32)


def encode_pairs(pairs: pa.Table, vocabulary: Vocabulary, first_page: int = 0) -> pa.Table:
    """Encode the sampled pairs of some pages (`contracts.PAIRS`): one row a pair (`ENCODED_PAIRS`), pages from `first_page` on."""
    wanted = ("left_item", "right_item", "left_category", "right_category", "kind", "weight")
    _need(pairs, *wanted)
    pairs = pairs.combine_chunks()
    left = _lists(pairs, "left_item")
    right, *categories, kind, weight = (_lists(pairs, name, left) for name in wanted[1:])
    place = pc.index_in(kind.values, value_set=pa.array(PAIR_KINDS))
    if place.null_count:
        raise TableError(f"pairs: a kind is none of {', '.join(PAIR_KINDS)}; build the table again")
    return pa.table({
        "left": vocabulary.encode("item", left.values), "right": vocabulary.encode("item", right.values),
        **{f"{side}_category": vocabulary.encode("category", own.values)
           for side, own in zip(("left", "right"), categories, strict=True)},
        "kind": place.cast(pa.int64()), "weight": weight.numbers().astype(np.float32), "page": left.row + first_page,
    }, schema=ENCODED_PAIRS)


def encode_flows(flows: pa.Table, vocabulary: Vocabulary, first_row: int = 0, first_user: int = 0) -> pa.Table:
    """Encode cuts of walks and their futures (`contracts.FLOWS`) as rows of `ENCODED_FLOWS`; parameters as of `encode_pages`."""
    _need(flows, "future_item")
    flows = flows.combine_chunks()
    history, future = encode_history(flows, vocabulary), _lists(flows, "future_item")
    ahead = {name: _lists(flows, name, future) for name in FUTURE_FEATURES}
    columns = {
        **{name: history[name] for name in history.column_names},
        "row": pa.array(np.arange(first_row, first_row + len(flows)), pa.int64()),
        "user": pa.array(_numbered(_whole(flows, "user_id")) + first_user, pa.int64()),
        "n_items": pa.array(future.lengths, pa.int64()),
        **{name: own.again(vocabulary.encode(name.removeprefix("future_"), own.values), pa.int64()) for name, own in ahead.items()},
    }
    return pa.table([columns[name] for name in ENCODED_FLOWS.names], schema=ENCODED_FLOWS)


def encode_history(rows: pa.Table, vocabulary: Vocabulary) -> pa.Table:
    """What was known of the users of some rows at their cuts: user_id, cut_time, and the columns of tokens and visits."""
    _need(rows, "user_id", "cut_time", "moveline_item", "visit_scene")
    rows = rows.combine_chunks()
    cut = _microseconds(_whole(rows, "cut_time"))
    tokens, visits = _lists(rows, "moveline_item"), _lists(rows, "visit_scene")
    return pa.table({"user_id": _whole(rows, "user_id"), "cut_time": pa.array(cut, pa.int64()),
                     **_tokens(rows, vocabulary, tokens, cut), **_visits(rows, vocabulary, visits, cut)})


def _need(table: pa.Table, *columns: str) -> None:
    missing = [c for c in columns if c not in table.column_names]
    if missing:
        raise TableError(f"encoding needs the columns {', '.join(missing)}; the table has {', '.join(table.column_names)}")


def _whole(table: pa.Table, name: str) -> pa.Array:
    _need(table, name)
    chunks = table[name].chunks
    if len(chunks) == 1:
        return chunks[0]
    return pa.concat_arrays(chunks) if chunks else pa.array([], table[name].type)


def _lists(table: pa.Table, name: str, like: _Lists | None = None) -> _Lists:
    column = _whole(table, name)
    lengths = pc.list_value_length(column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
    if like is not None and not np.array_equal(lengths, like.lengths):
        raise TableError(f"column {name}: its lists are not as long as the lists they belong to; build the table again")
    return _Lists(column.flatten(), lengths)


def _single(pages: pa.Table, vocabulary: Vocabulary, field: str, name: str) -> pa.Array:
    return pa.array(vocabulary.encode(field, _whole(pages, name)), pa.int64())


def _numbered(ids: pa.Array) -> np.ndarray:
    return ids.dictionary_encode().indices.to_numpy(zero_copy_only=False).astype(np.int64)
