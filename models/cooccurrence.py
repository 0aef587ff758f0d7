"""A start for a generator: item vectors from which items lie near each other in walks, and weights that read them at once.

Row-wise Adagrad moves a row by about one rate a step whatever its gradient, and most items are seldom a target and often a
negative: from random rows, all of them first move one way, and a few passes do not tell items apart that occur ten times. Counts
need no passes. The vectors are a truncated eigen-decomposition of the counts, each divided by the root of both items' counts.
"""

from collections.abc import Sequence

import numpy as np
import pyarrow.parquet as pq
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from models.attention import Block
from models.nif import Nif

_FEW = 1_024
"""Up to so many items all eigenvectors are computed: the iteration for some of them needs a matrix of a higher rank."""

_QUIET = 0.1
"""Length of what is not known yet, against item vectors of length sqrt(d)."""


def item_vectors(item: np.ndarray, lengths: np.ndarray, rows: int, dim: int, window: int = 50) -> Tensor:
    """[rows, dim] float32 vectors of length sqrt(dim), 0 for what never occurs beside another item.

    Two items count 1 / their distance, whichever comes first, wherever they lie less than `window` apart in a walk.

    Parameters
    ----------
    item : [n] indexes of all walks, one after the other, 0 for a token without an item. lengths : of the walks.
    rows : of the table.
    """
    walk = np.repeat(np.arange(len(lengths)), lengths)
    found, place = np.unique(item[item > 0], return_inverse=True)
    index = np.full(len(item), -1)
    index[item > 0] = place
    near, size = csr_matrix((len(found), len(found))), (len(found), len(found))
    for apart in range(1, min(window, int(lengths.max(initial=1)))):
        left, right = index[:-apart], index[apart:]
        same = (walk[apart:] == walk[:-apart]) & (left >= 0) & (right >= 0) & (left != right)
        near = near + coo_matrix((np.full(int(same.sum()), 1 / apart), (left[same], right[same])), shape=size).tocsr()
    scale = diags(np.maximum(np.bincount(place, minlength=len(found)), 1) ** -0.5)
    vectors = torch.zeros(rows, dim)
    vectors[found] = torch.from_numpy(_factors((scale @ (near + near.T) @ scale).tocsc(), dim)).float()
    norm = vectors.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-6 * norm.max(), vectors / norm.clamp(min=1e-12) * dim**0.5, 0.0)


def repeat_odds(item: np.ndarray, lengths: np.ndarray) -> float:
    """Log of the odds that an item has stood in its walk before; one that was also the item just before it does not count.

    Parameters
    ----------
    item, lengths : as for `item_vectors`.

    Examples
    --------
    >>> round(repeat_odds(np.array([1, 1, 2, 1, 0, 3]), np.array([6])), 3)
    -0.511
    """
    walk = np.repeat(np.arange(len(lengths)), lengths)
    key = walk * (int(item.max(initial=0)) + 1) + item
    order = np.argsort(key, kind="stable")
    before = np.zeros(len(item), bool)
    before[order[1:]] = key[order[1:]] == key[order[:-1]]
    asked = (item > 0) & (np.diff(key, prepend=-1) != 0) & (np.diff(walk, prepend=-1) == 0)
    return float(np.log((before & asked).sum() + 0.5) - np.log((~before & asked).sum() + 0.5))


def walks_of(files: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Items and lengths of the walks of encoded flows: a walk is what came before a cut and what came after it."""
    item, length = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for path in files:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(columns=["moveline_item", "future_item"]):
                lists = [batch.column(name) for name in ("moveline_item", "future_item")]
                counts = [np.diff(own.offsets.to_numpy()) for own in lists]
                row = np.concatenate([np.repeat(np.arange(len(own)), own) for own in counts])
                item.append(np.concatenate([own.flatten().to_numpy() for own in lists])[np.argsort(row, kind="stable")])
                length.append(counts[0] + counts[1])
    return np.concatenate(item), np.concatenate(length)


def _factors(counts: csr_matrix, dim: int) -> np.ndarray:
    """[n, dim] whose products of rows are nearest to symmetric counts [n, n]; negative eigenvalues are left out."""
    if counts.shape[0] <= max(dim, _FEW):
        values, vectors = np.linalg.eigh(counts.toarray())
        values, vectors = values[-dim:], vectors[:, -dim:]
    else:
        values, vectors = eigsh(counts, dim, which="LA", v0=np.ones(counts.shape[0]))
    found = np.zeros((counts.shape[0], dim))
    found[:, : len(values)] = vectors * np.sqrt(np.maximum(values, 0.0))
    return found


@torch.no_grad()
def begin(model: Nif, vectors: Tensor, repeats: float) -> None:
    """Give a fresh generator item vectors, so that its flow begins as the item of the last token, and a target as the item itself.

    Parameters
    ----------
    vectors : [rows, d] of the first rows of its item table; a row of zeros leaves the model's own.
    repeats : log odds that an item of the walk comes again (`repeat_odds`), where a model that learns them begins.
    """
    if model.repeat is not None:
        model.repeat.fill_(repeats * model.config.temperature)
    d, tables = model.config.dim, model.tables.collection.embeddings
    known = vectors.norm(dim=1, keepdim=True) > 0
    tables["item"].weight[: len(vectors)] = torch.where(known, vectors, tables["item"].weight[: len(vectors)])
    for name, table in tables.items():
        if name != "item":
            table.weight.mul_(_QUIET / table.weight.std().clamp(min=1e-6) / 2)
    for layer in (model.token.mix, model.target.mix, model.start, model.out):
        layer.bias.zero_()
        layer.weight.copy_(torch.eye(d).repeat(1, layer.in_features // d))
    model.steps.mul_(_QUIET)
    for block in (*model.tokens.encoder.blocks, *model.visits.encoder.blocks, *model.decoder):
        for last in _closing(block):
            last.weight.zero_()
            last.bias.zero_()


def _closing(block: nn.Module) -> list[nn.Linear]:
    """The layers by which a block adds to its sequence: at zero it changes nothing, and learns to."""
    if not isinstance(block, Block):
        return []
    return [block.own.out, block.narrow, *([] if block.cross is None else [block.cross.out])]
