"""Losses as sums and weights, so that any number of ranks computes the gradient of one process on the same global batch."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from feature_store.batch import PageBatch, PairBatch

CO_CLICK, MONO_CLICK = 0, 2
"""Indexes into `contracts.PAIR_KINDS`."""


@dataclass(frozen=True)
class Terms:
    """A loss before division: sums [k] and weights [k], each to be added up over all ranks.

    The loss is the sum over k of factor * sum / weight; without factors, the mean over k of sum / weight.
    """

    sums: Tensor
    weights: Tensor
    factors: tuple[float, ...] | None = None

    def over(self, sums: Tensor, weights: Tensor) -> Tensor:
        """The loss from sums and weights of such terms over all ranks (or batches). A term without weight counts as zero."""
        each = sums / weights.clamp(min=1e-12)
        return each.mean() if self.factors is None else (each * each.new_tensor(self.factors)).sum()


def combined(*parts: tuple[float, tuple[Tensor, Tensor]]) -> Terms:
    """Terms of some losses, each a factor and a pair of sum and weight."""
    sums, weights = (torch.stack([part[n] for _, part in parts]) for n in range(2))
    return Terms(sums, weights, tuple(factor for factor, _ in parts))


def page_terms(logits: Tensor, batch: PageBatch) -> Terms:
    """Binary cross-entropy of clicks over the shown items that count. One term."""
    loss = F.binary_cross_entropy_with_logits(logits, batch.clicked, weight=batch.weight, reduction="sum")
    return Terms(loss.view(1), batch.weight.sum().view(1))


def pair_terms(logits: Tensor, batch: PairBatch) -> Terms:
    """Contrastive logistic loss: co-click pairs attract, mono-click pairs repel. Two terms: both kinds weigh the same."""
    zero = torch.zeros_like(batch.weight)
    attract = torch.where(batch.kind == CO_CLICK, batch.weight, zero)
    repel = torch.where(batch.kind == MONO_CLICK, batch.weight, zero)
    sums = torch.stack([(F.softplus(-logits) * attract).sum(), (F.softplus(logits) * repel).sum()])
    return Terms(sums, torch.stack([attract.sum(), repel.sum()]))


def global_loss(terms: Terms, world: int) -> tuple[Tensor, Tensor]:
    """The loss to differentiate on this rank, and the detached loss of the global batch.

    DDP and TorchRec average gradients over ranks, so the local share is scaled by `world`.
    """
    weights = terms.weights.detach().clone()
    if world > 1:
        dist.all_reduce(weights)
    local = terms.over(terms.sums, weights)
    total = local.detach().clone()
    if world > 1:
        dist.all_reduce(total)
    return local * world, total


def weighted_auc(scores: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> float | None:
    """Probability that a positive scores above a negative, ties half; None unless both occur.

    Examples
    --------
    >>> weighted_auc(np.array([.1, .4, .4, .8]), np.array([0, 0, 1, 1]), np.ones(4))
    0.875
    """
    _, place = np.unique(scores, return_inverse=True)
    positive = np.bincount(place, weights * labels)
    negative = np.bincount(place, weights * (1 - labels))
    total = positive.sum() * negative.sum()
    if total == 0:
        return None
    return float((positive * (np.cumsum(negative) - negative / 2)).sum() / total)
