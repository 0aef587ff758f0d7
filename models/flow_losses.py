"""Losses of a generator of next interests (Next Interest Flow, arXiv 2510.11317), as sums and weights (`models.losses.Terms`).

InfoNCE with logQ correction is a known formula. The equations of diversity and velocity were never published: both the `flat` and
the `sphere` form are our reconstruction. Flows are unit vectors [R, K, d]; futures are jagged, [F, d], step after step, cut after
cut, and a step that a cut's future lacks does not exist here, so it cannot have a gradient.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import torch
import torch.nn.functional as F
from torch import Tensor

from models.flow_metrics import at_steps, occurs
from models.layers import Jagged
from models.sphere import acceleration, angle, around_heading

Sum = tuple[Tensor, Tensor]
"""Sum and weight of one term, both scalars."""


@dataclass(frozen=True)
class Walked:
    """The items of the walks themselves. They are few and near by, and rarely drawn: each is a negative once, exactly.

    Attributes
    ----------
    item : [R, T] index of the item of every token, 0 where there is none. vector : [R, T, d] unit vectors.
    again : what an item of its walk gains in cosine (`Nif.lift`), a scalar.
    """

    item: Tensor
    vector: Tensor
    again: Tensor | float = 0.0

    @cached_property
    def once(self) -> Tensor:
        """[R, T] whether a token has an item that no token before it has."""
        again = (self.item[:, :, None] == self.item[:, None, :]).tril(-1).any(2)
        return (self.item > 0) & ~again


@dataclass(frozen=True)
class Negatives:
    """What the futures of a batch are told apart from. F futures, n sampled items.

    Attributes
    ----------
    future_item : [F] index of every future's item. future_logq : [F] log probability of it as an in-batch negative.
    user, part : [R] user and part of every cut. vector : [n, d] unit vectors of the sampled items. item, logq : [n] their index and
        log probability. walked : the items of the walks.
    """

    future_item: Tensor
    future_logq: Tensor
    user: Tensor
    part: Tensor
    vector: Tensor
    item: Tensor
    logq: Tensor
    walked: Walked


def info_nce(flow: Tensor, target: Tensor, steps: Jagged, weight: Tensor, others: Negatives, temperature: float) -> Sum:
    """-log of the positive's share among itself and the negatives, summed over the futures, each weighing as much as its cut.

    Negatives of a future are the sampled items and the futures of other users in the same part, less all items that lie ahead of
    its own user in that part; and the items of its own walk, each exactly once whether drawn or not. The score of one that was
    drawn is lowered by the log of how often it is expected among them: its probability times their number. (Lowered by the
    probability of one draw alone, n negatives would weigh n times too much against the positive, which is not corrected.)

    Parameters
    ----------
    flow : [R, K, d]. target : [F, d] unit vectors of the futures. steps : where the futures lie; at most K a cut. weight : [R].
    """
    ahead, again = at_steps(flow, steps), others.walked.again
    own = weight.index_select(0, steps.page)
    walk = (at_steps(torch.bmm(flow, others.walked.vector.transpose(1, 2)), steps) + again) / temperature
    same = others.walked.item[:, :, None] == steps.pad(others.future_item)[:, None, :]
    positive = ((ahead * target).sum(1) + steps.unpad(same.any(1)) * again) / temperature
    coming = same.any(2)
    walk = walk.masked_fill(~(others.walked.once & ~coming).index_select(0, steps.page), -math.inf)
    total = positive.new_zeros(())
    for part in torch.unique(others.part).tolist():  # as many as the loader has shards, whatever the batch
        inside = (others.part == part).index_select(0, steps.page).nonzero().squeeze(1)
        log_others = _log_of_others(ahead, target, steps, weight, others, inside, walk, temperature)
        loss = F.softplus(log_others - positive.index_select(0, inside))
        total = total + (loss * own.index_select(0, inside)).sum()
    return total, own.sum()


def _log_of_others(ahead: Tensor, target: Tensor, steps: Jagged, weight: Tensor, others: Negatives, inside: Tensor, walk: Tensor,
                   temperature: float) -> Tensor:
    """[f] log of the corrected sum over the negatives of the futures `inside` one part; -inf without negatives."""
    cut = steps.page.index_select(0, inside)
    item = torch.cat([others.future_item.index_select(0, inside), others.item])
    vector = torch.cat([target.index_select(0, inside), others.vector])
    logq = torch.cat([others.future_logq.index_select(0, inside), others.logq])
    user = others.user.index_select(0, cut)
    counts = weight.index_select(0, cut) > 0
    allowed = ~_ahead_of_user(user, item, counts) & ~occurs(others.walked.item, item).index_select(0, cut)
    allowed[:, : len(inside)] &= (user[:, None] != user[None, :]) & counts[None, :]
    score = ahead.index_select(0, inside) @ vector.T / temperature
    return _log_sum(score, logq, allowed, walk.index_select(0, inside))


def _log_sum(score: Tensor, logq: Tensor, allowed: Tensor, walk: Tensor) -> Tensor:
    """[f] log of the sum over drawn negatives [f, m], corrected, and items of the walk [f, T], which stand for themselves."""
    number = allowed.sum(1, keepdim=True).clamp(min=1).to(logq.dtype).log()
    drawn = (score - logq - number).masked_fill(~allowed, -math.inf)
    both = torch.cat([drawn, walk], 1)
    return torch.logsumexp(both, 1) if both.shape[1] else both.sum(1)


def _ahead_of_user(user: Tensor, item: Tensor, counts: Tensor) -> Tensor:
    """[f, m] whether item m is one of the futures (the first f items, those that count) of the user of future f."""
    users, user_at = torch.unique(user, return_inverse=True)
    items, item_at = torch.unique(item, return_inverse=True)
    has = torch.zeros(len(users), len(items), dtype=torch.bool, device=item.device)
    has[user_at[counts], item_at[: len(user)][counts]] = True
    return has.index_select(1, item_at).index_select(0, user_at)


def walk_nce(ahead: Tensor, token: Tensor, before: Tensor, weight: Tensor, others: Negatives, temperature: float) -> Sum:
    """As `info_nce`, of M single tokens of the walks against the sampled items and the items of their walks before them.

    Parameters
    ----------
    ahead : [M, d] unit vectors. token, before : [M] places, in [R * T], of a token and of the one from which it is foreseen.
    weight : [M].
    """
    walked = others.walked
    rows, longest, d = walked.vector.shape
    item, row = walked.item.flatten().index_select(0, token), token // longest
    target = walked.vector.flatten(0, 1).index_select(0, token)
    padded = ahead.new_zeros(rows * longest, d).index_copy(0, before, ahead).view(rows, longest, d)
    cosine = torch.bmm(padded, walked.vector.transpose(1, 2)).flatten(0, 1).index_select(0, before)
    walk = (cosine + walked.again) / temperature
    past = torch.arange(longest, device=token.device)[None, :] <= (before % longest)[:, None]
    same = past & (walked.item.index_select(0, row) == item[:, None])
    kept = past & walked.once.index_select(0, row) & ~same
    # What comes later in the walk is ahead of its own user: no negative.
    allowed = ~occurs(walked.item, others.item).index_select(0, row)
    score = ahead @ others.vector.T / temperature
    log_others = _log_sum(score, others.logq, allowed, walk.masked_fill(~kept, -math.inf))
    positive = ((ahead * target).sum(1) + same.any(1) * walked.again) / temperature
    return (F.softplus(log_others - positive) * weight).sum(), weight.sum()


def flat_diversity(flow: Tensor, weight: Tensor, margin: float) -> Sum:
    """Reconstruction: squared excess of the cosine over a margin, mean over the pairs of steps at least two apart.

    Adjacent steps are left out: on unit vectors pushing them apart and keeping them close are one term with two signs.
    """
    steps = flow.shape[1]
    first, second = torch.triu_indices(steps, steps, 2, device=flow.device)
    cosine = torch.bmm(flow, flow.transpose(1, 2))[:, first, second]
    return _weighted((cosine - margin).relu().square(), weight)


def flat_velocity(flow: Tensor, target: Tensor, steps: Jagged, weight: Tensor, matched: bool) -> Sum:
    """Reconstruction: squared difference of a step's change from the change of its targets (`matched`), or the change itself."""
    change = flow[:, 1:] - flow[:, :-1]
    if matched:
        padded = steps.pad(target)
        change = change[:, : padded.shape[1] - 1] - (padded[:, 1:] - padded[:, :-1])
    real = (steps.mask[:, 1:] & steps.mask[:, :-1]).to(flow.dtype) * weight[:, None]
    return (change[:, : real.shape[1]].square().sum(2) * real).sum(), real.sum()


def sphere_diversity(base: Tensor, flow: Tensor, weight: Tensor) -> Sum:
    """Reconstruction: mean squared cosine of the tangent vectors at base [R, d], pair by pair, without their common heading."""
    steps = flow.shape[1]
    first, second = torch.triu_indices(steps, steps, 1, device=flow.device)
    directions = F.normalize(around_heading(base, flow), dim=2, eps=1e-6)
    return _weighted(torch.bmm(directions, directions.transpose(1, 2))[:, first, second].square(), weight)


def sphere_velocity(flow: Tensor, longest: Tensor, weight: Tensor) -> Sum:
    """Reconstruction: mean squared covariant acceleration, plus the mean squared excess of a step's angle over `longest` [R]."""
    bend, weights = _weighted(acceleration(flow).square().sum(2), weight)
    jump, _ = _weighted((angle(flow[:, :-1], flow[:, 1:]) - longest[:, None]).relu().square(), weight)
    return bend + jump, weights


@torch.no_grad()
def usual_longest_step(target: Tensor, steps: Jagged, part: Tensor, weight: Tensor, share: float) -> Tensor:
    """[R] the angle that a `share` of the steps between targets in a cut's part does not exceed; pi where a part has no step.

    Cuts without weight do not count.
    """
    padded = steps.pad(target)
    real = steps.mask[:, 1:] & steps.mask[:, :-1] & (weight > 0)[:, None]
    angles, of = angle(padded[:, :-1], padded[:, 1:])[real], part[:, None].expand_as(real)[real]
    longest = torch.full((len(part),), math.pi, dtype=target.dtype, device=target.device)
    for number in torch.unique(of).tolist():
        own = angles[of == number].sort().values
        longest = torch.where(part == number, own[math.ceil(share * len(own)) - 1], longest)
    return longest


def _weighted(values: Tensor, weight: Tensor) -> Sum:
    """Mean over the second dimension (0 when it is empty), summed with a weight a cut."""
    means = values.sum(1) / max(values.shape[1], 1)
    return (means * weight).sum(), weight.sum()
