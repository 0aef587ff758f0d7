"""Embedding tables: one TorchRec `EmbeddingCollection` for all features, with headroom; a table grows seldom and never forgets."""

import zlib
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchrec.modules.embedding_configs import EmbeddingConfig
from torchrec.modules.embedding_modules import EmbeddingCollection
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from feature_store.batch import BUCKET_ROWS, TABLES
from feature_store.errors import ModelError

BLOCK = 256
"""Tables have a multiple of this many rows."""


def capacity(rows: int) -> int:
    """Rows to allocate for a vocabulary of `rows` entries: a quarter of headroom, up to the next multiple of BLOCK.

    Examples
    --------
    >>> capacity(10), capacity(256), capacity(20_000)
    (256, 512, 25088)
    """
    return -(-max(rows + rows // 4, 1) // BLOCK) * BLOCK


def capacities(vocabulary_sizes: Mapping[str, int], previous: Mapping[str, int] | None = None) -> dict[str, int]:
    """Rows of every table, from the sizes of the vocabularies (index 0 and buckets included).

    A table keeps its `previous` capacity while its vocabulary fits; it never shrinks.
    """
    known = dict(previous or {})
    grown = {table: known[table] if known.get(table, 0) >= size else max(capacity(size), known.get(table, 0))
             for table, size in vocabulary_sizes.items()}
    return {**{table: rows for table, rows in BUCKET_ROWS.items()}, **grown}


def initial_rows(table: str, rows: int, dim: int, seed: int) -> Tensor:
    """[rows, dim] starting values of a table. Row i is the same for any number of rows, so growing changes no row."""
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed}/{table}".encode()))
    return (torch.rand(rows, dim, generator=generator) - 0.5) * 0.1


def grown_rows(old: Tensor, fresh: Tensor) -> Tensor:
    """`fresh` with its first rows replaced by all of `old`; for weights and for the state of their optimiser.

    Raises
    ------
    ModelError : the new table is smaller, or rows differ in shape.
    """
    if old.shape[0] > fresh.shape[0] or old.shape[1:] != fresh.shape[1:]:
        raise ModelError(f"a table of shape {tuple(old.shape)} does not fit one of shape {tuple(fresh.shape)}: "
                         "keep the dim and let tables grow only")
    grown = fresh.clone()
    grown[: old.shape[0]] = old
    return grown


def completed(given: Mapping[str, JaggedTensor], features: Sequence[str], rows: int) -> KeyedJaggedTensor:
    """The features given, and the others of a batch of so many rows without values: sharded tables want them all, in its order."""
    values = torch.cat([given[name].values() for name in features if name in given])
    none = torch.zeros(rows, dtype=torch.int32, device=values.device)
    lengths = torch.cat([given[name].lengths().int() if name in given else none for name in features])
    return KeyedJaggedTensor(keys=list(features), values=values, lengths=lengths)


class Tables(nn.Module):
    """The embedding tables of a model.

    Parameters
    ----------
    dim : columns of every table, a multiple of 4.
    rows : rows by table; see `capacities`.
    seed : starting values are a function of (seed, table, row) alone, so the same on any number of ranks.
    features : table -> the features that look it up.
    """

    def __init__(self, dim: int, rows: Mapping[str, int], seed: int, features: Mapping[str, tuple[str, ...]] = TABLES) -> None:
        super().__init__()
        missing = [table for table in features if table not in rows]
        if missing:
            raise ModelError(f"no number of rows for the tables {', '.join(missing)}; see models.embeddings.capacities")
        self.limits = {feature: rows[table] for table, names in features.items() for feature in names}
        self.collection = EmbeddingCollection(tables=[
            EmbeddingConfig(name=table, embedding_dim=dim, num_embeddings=rows[table], feature_names=list(names))
            for table, names in features.items()
        ])
        with torch.no_grad():
            for table in features:
                self.collection.embeddings[table].weight.copy_(initial_rows(table, rows[table], dim, seed))

    def forward(self, sparse: KeyedJaggedTensor) -> dict[str, JaggedTensor]:
        """Vectors of every value, by feature. Raises ModelError for an index outside its table (FBGEMM alone would take row 0)."""
        self._check(sparse)
        return self.collection(sparse)

    def _check(self, sparse: KeyedJaggedTensor) -> None:
        values, offsets = sparse.values(), sparse.offset_per_key()
        for n, feature in enumerate(sparse.keys()):
            if feature in self.limits and offsets[n] < offsets[n + 1]:
                low, high = torch.aminmax(values[offsets[n]: offsets[n + 1]])
                if int(low) < 0 or int(high) >= self.limits[feature]:
                    wrong = int(high) if int(low) >= 0 else int(low)
                    raise ModelError(f"{feature}: index {wrong} is outside its table of {self.limits[feature]} rows; encode with"
                                     " the vocabulary the model was made for, or grow the tables")
