"""Code vectors to begin with: k-means of the vectors of a global batch, level by level. Used while training alone."""

import numpy as np
import torch
from sklearn.cluster import KMeans
from torch import Tensor

from models.distributed import from_all_ranks
from models.metrics import Floats
from models.quantiser import ResidualQuantiser


@torch.no_grad()
def begin_codes(quantiser: ResidualQuantiser, vectors: Tensor, weight: Tensor, key: Tensor, seed: int) -> None:
    """Set the books by the items that count of the global batch. Every rank must call it, and each gets the same.

    Parameters
    ----------
    vectors : [N, d] of this rank. weight : [N]. key : [N] int64 that names an item of a page wherever it is computed.
    """
    kept = weight > 0
    columns = torch.cat([key[kept][None].double(), vectors[kept].T.double()]).cpu()
    everywhere = from_all_ranks(columns)
    # In one order for any number of ranks: k-means begins with rows by their place.
    rows = everywhere[1:, torch.argsort(everywhere[0])].T.contiguous()
    if len(rows):
        begin(quantiser, rows.numpy(), seed)


@torch.no_grad()
def begin(quantiser: ResidualQuantiser, vectors: Floats, seed: int) -> None:
    """Each book becomes the centres of what the levels before it leave of the vectors [n, d].

    With fewer different vectors than codes, the codes left over keep random values of the size of what is left.
    """
    rest, (_, size, dim) = vectors, quantiser.books.shape
    draw = np.random.default_rng(seed)
    for level in range(len(quantiser.books)):
        number = min(size, len(np.unique(rest.round(9), axis=0)))
        found = KMeans(number, n_init=1, max_iter=50, random_state=seed + level).fit(rest)
        others = draw.normal(0.0, max(float(rest.std()), 1e-6), (size - number, dim))
        quantiser.books[level] = torch.from_numpy(np.concatenate([found.cluster_centers_, others]))
        rest = rest - found.cluster_centers_[found.labels_]
