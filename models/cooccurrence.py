"""A start for a generator: item vectors from which items lie near each other in walks, and weights that read them at once.

Row-wise Adagrad moves a row by about one rate a step whatever its gradient, and most items are seldom a target and often a
negative: from random rows, all of them first move one way, and a few passes do not tell items apart that occur ten times. Counts
need no passes. The vectors are a truncated eigen-decomposition of the counts, each divided by the root of both items' counts.
"""

import numpy as np
import torch
from scipy.sparse import coo_matrix, csr_matrix, diags
from scipy.sparse.linalg import eigsh
from torch import Tensor, nn

from feature_store.errors import ModelError
from models.attention import Block
from models.nif import Nif

_QUIET = 0.1
"""Length of what is not known yet, against item vectors of length sqrt(d)."""


def item_vectors(item: np.ndarray, lengths: np.ndarray, rows: int, dim: int, window: int = 50) -> Tensor:
    """[rows, dim] float32 vectors of length sqrt(dim), 0 for what never occurs beside another item.

    Two items count 1 / their distance, whichever comes first, wherever they lie less than `window` apart in a walk.

    Parameters
    ----------
    item : [n] indexes of all walks, one after the other, 0 for a token without an item. lengths : of the walks.
    rows : of the table.

    Raises
    ------
    ModelError : fewer rows than columns.
    """
    if rows <= dim:
        raise ModelError(f"item vectors of {dim} columns need a table of more rows than {rows}")
    walk = np.repeat(np.arange(len(lengths)), lengths)
    near = csr_matrix((rows, rows))
    for apart in range(1, min(window, int(lengths.max(initial=1)))):
        same = (walk[apart:] == walk[:-apart]) & (item[apart:] > 0) & (item[:-apart] > 0) & (item[apart:] != item[:-apart])
        pairs = (item[:-apart][same], item[apart:][same])
        near = near + coo_matrix((np.full(len(pairs[0]), 1 / apart), pairs), shape=(rows, rows)).tocsr()
    # An item may occur beside none: it has a count all the same, and a row of zeros.
    scale = diags(np.maximum(np.bincount(item, minlength=rows), 1) ** -0.5)
    values, vectors = eigsh((scale @ (near + near.T) @ scale).tocsc(), dim, which="LA", v0=np.ones(rows))
    found = torch.from_numpy(vectors * np.sqrt(np.maximum(values, 0.0))).float()
    norm = found.norm(dim=1, keepdim=True)
    return torch.where(norm > 1e-6 * float(norm.max()), found / norm.clamp(min=1e-12) * dim**0.5, 0.0)


@torch.no_grad()
def begin(model: Nif, vectors: Tensor) -> None:
    """Give a fresh generator item vectors, so that its flow begins as the item of the last token, and a target as the item itself.

    Parameters
    ----------
    vectors : [rows, d] of the first rows of its item table; a row of zeros leaves the model's own.
    """
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
