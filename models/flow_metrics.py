"""How good flows are as retrievers, and whether they have collapsed."""

import torch
import torch.nn.functional as F
from torch import Tensor

from models.layers import Jagged


def best_cosine(flow: Tensor, vectors: Tensor) -> Tensor:
    """[R, n] score of items for next-item retrieval: the largest cosine over the K steps of a flow.

    Parameters
    ----------
    flow : [R, K, d] unit vectors. vectors : [n, d] unit vectors of the items (`Nif.items`).
    """
    return torch.einsum("rkd,nd->rkn", flow, vectors).amax(1)


def occurs(walk: Tensor, item: Tensor) -> Tensor:
    """[R, m] whether an item [m] stands in a walk [R, T].

    Examples
    --------
    >>> occurs(torch.tensor([[3, 5], [7, 0]]), torch.tensor([7, 5, 9])).int().tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    items, item_at = torch.unique(item, return_inverse=True)
    at = torch.searchsorted(items, walk).clamp(max=len(items) - 1)
    row, place = (items[at] == walk).nonzero(as_tuple=True) if len(items) else torch.empty(2, 0, dtype=torch.long)
    has = torch.zeros(len(walk), len(items), dtype=torch.bool, device=item.device)
    has[row, at[row, place]] = True
    return has.index_select(1, item_at)


def recalls(flow: Tensor, target: Tensor, item: Tensor, steps: Jagged, others: Tensor, other_item: Tensor,
            at: tuple[int, ...], lifts: tuple[Tensor | float, Tensor | float] = (0.0, 0.0)) -> Tensor:
    """[len(at), F] 1 where a future is among the first `at` of the other items and itself, by the cosine to its own step.

    A tie counts against it. Others that are the future itself do not count.

    Parameters
    ----------
    flow : [R, K, d]. target, item : [F, d] and [F] of the futures, lying as `steps` says. others, other_item : [n, d] and [n].
    lifts : [F] and [F, n] what futures and others gain beyond their cosine (`Nif.lifts`).
    """
    ahead = at_steps(flow, steps)
    better = ahead @ others.T + lifts[1] >= ((ahead * target).sum(1) + lifts[0])[:, None]
    rank = (better & (item[:, None] != other_item[None, :])).sum(1)
    return torch.stack([(rank < limit).to(flow.dtype) for limit in at])


def at_steps(flow: Tensor, steps: Jagged) -> Tensor:
    """[F, d] the step of its flow [R, K, d] that each future lies at; futures lie as `steps` says, at most K a cut."""
    return flow.flatten(0, 1).index_select(0, steps.page * flow.shape[1] + steps.place)


def pairwise_cosine(flow: Tensor) -> Tensor:
    """[R] mean cosine of two different steps of a flow; 1 when all steps are the same. 0 for K = 1.

    Examples
    --------
    >>> pairwise_cosine(torch.tensor([[[1.0, 0.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]])).tolist()
    [1.0, 0.0]
    """
    steps = flow.shape[1]
    total = flow.sum(1).square().sum(1) - flow.square().sum((1, 2))
    return total / max(steps * (steps - 1), 1)


def effective_rank(vectors: Tensor) -> Tensor:
    """Number of directions that [n, d] vectors fill: exp of the entropy of their normalised singular values (Roy & Vetterli, 2007).

    Examples
    --------
    >>> round(float(effective_rank(torch.eye(4))), 4), round(float(effective_rank(torch.ones(5, 4))), 4)
    (4.0, 1.0)
    """
    values = torch.linalg.svdvals(vectors.double())
    share = values / values.sum().clamp(min=1e-12)
    return torch.special.entr(share).sum().exp()


def normalised(vectors: Tensor) -> Tensor:
    """[n, d] unit vectors."""
    return F.normalize(vectors, dim=-1, eps=1e-6)
