"""Raw ids -> rows of the embedding tables. Append-only: an index never changes its meaning. Loads neither Spark nor torch.

Index 0 pads (and stands for null), 1..buckets are shared by unknown ids according to a hash, then come the known ids.
"""

import hashlib
import json
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store.contracts import VOCABULARY
from feature_store.errors import TableError

FIELDS = ("item", "category", "scene", "action", "scenario")
"""The fields that have a vocabulary; here and not in `batch`, which loads torch."""

_SCHEMA = pa.schema([VOCABULARY.schema.field(name) for name in ("field", "id", "index", "first_time")])
_BUCKETS_KEY = b"moveline.buckets"


class Vocabulary:
    """The ids of every field as of one moment.

    Parameters
    ----------
    entries : table with the columns field, id, index, first_time (others are dropped).
    buckets : out-of-vocabulary buckets a field.

    Raises
    ------
    TableError : an index lies inside the buckets or occurs twice, or an id occurs twice.

    Examples
    --------
    >>> import pyarrow as pa
    >>> day = datetime(2026, 1, 1, tzinfo=UTC)
    >>> entries = pa.table({"field": ["item"] * 2, "id": ["a", "b"], "index": [3, 4], "first_time": [day] * 2})
    >>> words = Vocabulary(entries, buckets=2)
    >>> words.encode("item", pa.array(["b", None, "a"])).tolist(), words.rows("item")
    ([4, 0, 3], 5)
    >>> bool(1 <= words.encode("item", pa.array(["new"]))[0] <= 2)
    True
    """

    def __init__(self, entries: pa.Table, buckets: int) -> None:
        self.buckets = buckets
        table = entries.select(_SCHEMA.names).cast(_SCHEMA).combine_chunks()
        self._entries = table.take(pc.sort_indices(table, sort_keys=[("field", "ascending"), ("index", "ascending")]))
        self._lookups: dict[str, tuple[pd.Index, np.ndarray]] = {}
        for field in FIELDS:
            self._check(field)

    def _check(self, field: str) -> None:
        own = self.entries(field)
        if not own.num_rows:
            return
        index = own["index"].to_numpy()
        if index[0] <= self.buckets:
            raise TableError(f"vocabulary, field {field}: index {index[0]} lies inside the {self.buckets} out-of-vocabulary buckets"
                             "; was vocabulary_buckets changed? It must keep the value the vocabulary was started with")
        if (np.diff(index) == 0).any() or pc.count_distinct(own["id"]).as_py() != own.num_rows:
            raise TableError(f"vocabulary, field {field}: an id or an index occurs twice; rebuild the table from its first day")

    def entries(self, field: str | None = None) -> pa.Table:
        """Known ids of a field (default: all fields) by index: columns field, id, index, first_time."""
        if field is None:
            return self._entries
        if field not in FIELDS:
            raise TableError(f"vocabulary: no field {field!r}; the fields are {', '.join(FIELDS)}")
        return self._entries.filter(pc.equal(self._entries["field"], field))

    def rows(self, field: str) -> int:
        """Rows an embedding table needs for this field: the highest index plus one."""
        own = self.entries(field)
        return int(own["index"][-1].as_py()) + 1 if own.num_rows else self.buckets + 1

    def as_of(self, time: datetime) -> "Vocabulary":
        """Only the ids that were available before `time`; what is dropped maps to its bucket from now on."""
        known = pc.less(self._entries["first_time"], pa.scalar(time.astimezone(UTC), _SCHEMA.field("first_time").type))
        return Vocabulary(self._entries.filter(known), self.buckets)

    def encode(self, field: str, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Indexes of raw ids, [len(values)] int64: null -> 0, unknown -> 1 + hash % buckets. Takes plain or dictionary arrays."""
        if isinstance(values, pa.ChunkedArray):
            values = values.combine_chunks()
        if not pa.types.is_dictionary(values.type):
            values = values.cast(pa.string()).dictionary_encode()
        if not len(values.dictionary):
            return np.zeros(len(values), np.int64)
        codes = values.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        # One more slot at the end: code -1 (null) finds index 0 there.
        return np.append(self._encode_distinct(field, values.dictionary), np.int64(0))[codes]

    def translated(self, field: str, words: "Vocabulary") -> np.ndarray:
        """[words.rows(field)] by index of another vocabulary with as many buckets, the index here: what encoding the same ids here
        gives. 0 for an index that `words` gives to nothing."""
        known, found = words.entries(field), np.zeros(words.rows(field), np.int64)
        found[: words.buckets + 1] = np.arange(words.buckets + 1)
        found[known["index"].to_numpy()] = self.encode(field, known["id"])
        return found

    def _encode_distinct(self, field: str, ids: pa.Array) -> np.ndarray:
        raw = ids.to_numpy(zero_copy_only=False)
        known, index = self._lookup(field)
        place = known.get_indexer(pd.Index(raw, dtype=object))
        found = np.empty(len(raw), np.int64)
        found[place >= 0] = index[place[place >= 0]]
        missing = place < 0
        if missing.any():
            found[missing] = 1 + (hash_ids(raw[missing]) % np.uint64(self.buckets)).astype(np.int64)
        return found

    def _lookup(self, field: str) -> tuple[pd.Index, np.ndarray]:
        if field not in self._lookups:
            own = self.entries(field)
            self._lookups[field] = (pd.Index(own["id"].to_numpy(), dtype=object), own["index"].to_numpy())
        return self._lookups[field]

    @cached_property
    def digest(self) -> str:
        """Names the content: fields, ids, indexes, first times and the number of buckets."""
        sink = pa.BufferOutputStream()
        # Rebuilt from its batches so that equal content has equal bytes whatever it was sliced from.
        plain = pa.table({name: pa.concat_arrays(self._entries[name].chunks) if self._entries.num_rows else pa.array([], kind)
                          for name, kind in zip(_SCHEMA.names, _SCHEMA.types, strict=True)})
        with pa.ipc.new_stream(sink, plain.schema) as writer:
            writer.write_table(plain)
        return hashlib.sha256(json.dumps(self.buckets).encode() + sink.getvalue().to_pybytes()).hexdigest()[:32]

    def save(self, path: str | Path) -> None:
        """Write everything to one Parquet file."""
        kept = self._entries.replace_schema_metadata({_BUCKETS_KEY: str(self.buckets).encode()})
        pq.write_table(kept, path, compression="zstd")

    @classmethod
    def load(cls, path: str | Path) -> "Vocabulary":
        """Read what `save` wrote. Raises TableError when the file is not a saved vocabulary."""
        try:
            table = pq.read_table(path)
            return cls(table, int((table.schema.metadata or {})[_BUCKETS_KEY]))
        except (OSError, KeyError, ValueError) as error:
            raise TableError(f"{path}: not a saved vocabulary ({type(error).__name__}); save it again") from error

    def __getstate__(self) -> dict[str, object]:
        # The lookups are large and quick to make again: they do not travel to Spark's workers.
        return {"_entries": self._entries, "buckets": self.buckets, "_lookups": {}}


def hash_ids(ids: np.ndarray) -> np.ndarray:
    """Hash of texts, uint64, the same on every machine and in every process (SipHash with a fixed key)."""
    return pd.util.hash_array(np.asarray(ids, dtype=object), categorize=False)
