import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.flow_losses import (
    Negatives,
    Sum,
    Walked,
    flat_diversity,
    flat_velocity,
    info_nce,
    sphere_diversity,
    sphere_velocity,
    usual_longest_step,
    walk_nce,
)
from models.layers import Jagged
from tests.models import oracles

K, D = 4, 8
SEEDS = st.integers(0, 10_000)


class Case:
    """Some random cuts: 7 of 4 users in 2 parts, walks of 5 tokens, 1 to K futures each, 12 items, 9 sampled negatives."""

    def __init__(self, seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.steps = Jagged(torch.randint(1, K + 1, (7,), generator=g))
        self.flow, self.target, self.sampled, self.base, self.walk = (
            torch.nn.functional.normalize(torch.randn(*shape, generator=g), dim=-1).requires_grad_()
            for shape in ((7, K, D), (self.steps.total, D), (9, D), (7, D), (7, 5, D)))
        self.item, self.other = (torch.randint(1, 13, (n,), generator=g) for n in (self.steps.total, 9))
        self.user, self.part = torch.randint(0, 4, (7,), generator=g), torch.randint(0, 2, (7,), generator=g)
        self.logq, self.other_logq = (-1 - 5 * torch.rand(n, generator=g) for n in (self.steps.total, 9))
        self.weight, self.walk_item = torch.ones(7), torch.randint(0, 13, (7, 5), generator=g)
        self.again = torch.randn((), generator=g).requires_grad_()

    def walks(self) -> list[list[tuple[int, np.ndarray]]]:
        """Items and vectors of the tokens, walk by walk."""
        vectors = self.walk.detach().double().numpy()
        return [list(zip(items, own, strict=True)) for items, own in zip(self.walk_item.tolist(), vectors, strict=True)]

    def negatives(self) -> Negatives:
        return Negatives(self.item, self.logq, self.user, self.part, self.sampled, self.other, self.other_logq,
                         Walked(self.walk_item, self.walk, self.again))

    def nce(self, tau: float = 0.2) -> Sum:
        return info_nce(self.flow, self.target, self.steps, self.weight, self.negatives(), tau)

    def cuts(self, flat: Tensor) -> list[np.ndarray]:
        """Values of the futures, cut by cut."""
        return [part.detach().double().numpy() for part in flat.split(self.steps.mask.sum(1).tolist())]

    def paths(self) -> np.ndarray:
        return self.flow.detach().double().numpy()

    def expected_nce(self, tau: float = 0.2) -> list[list[float]]:
        sampled, other_logq = self.sampled.detach().double().numpy(), self.other_logq.double().numpy()
        return oracles.info_nce(list(self.paths()), self.cuts(self.target), [c.astype(int).tolist() for c in self.cuts(self.item)],
                                self.cuts(self.logq), self.user.tolist(), self.part.tolist(), sampled, self.other.tolist(),
                                other_logq, self.walks(), tau, float(self.again))


def value(found: Sum) -> float:
    return float(found[0] / found[1])


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_info_nce_equals_the_oracle(seed: int) -> None:
    case = Case(seed)
    expected = [loss for cut in case.expected_nce() for loss in cut]
    found = case.nce()
    assert float(found[1]) == len(expected)
    assert value(found) == pytest.approx(np.mean(expected), abs=1e-5)


def test_a_cuts_weight_weighs_its_futures_and_a_cut_without_weight_is_no_negative() -> None:
    case = Case(3)
    case.part[:] = 0
    case.user[0] = 9
    case.weight = torch.tensor([0.0, 2.0, 1, 1, 1, 1, 1])
    found = case.nce()
    without = Case(3)
    without.part[:] = 0
    first = int(case.steps.mask[0].sum())
    without.steps = Jagged(case.steps.mask.sum(1)[1:])
    for name in ("flow", "user", "part", "weight", "walk", "walk_item"):
        setattr(without, name, getattr(without, name)[1:])
    for name in ("target", "item", "logq"):
        setattr(without, name, getattr(without, name)[first:])
    each = without.expected_nce()
    expected = sum((2.0 if n == 0 else 1.0) * sum(cut) for n, cut in enumerate(each))
    assert float(found[0]) == pytest.approx(expected, rel=1e-5)
    assert float(found[1]) == 2 * len(each[0]) + sum(len(cut) for cut in each[1:])


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_tokens_of_a_walk_are_told_apart_from_the_sampled_items_and_those_before_them_as_the_oracle_says(seed: int) -> None:
    case = Case(seed)
    line = case.walk_item.tolist()
    chosen = [(r, p) for r in range(7) for p in range(1, 5) if line[r][p] > 0 and line[r][p] != line[r][p - 1]]
    token = torch.tensor([r * 5 + p for r, p in chosen])
    ahead = torch.nn.functional.normalize(torch.randn(len(chosen), D, generator=torch.Generator().manual_seed(seed)), dim=1)
    weight = torch.rand(len(chosen))
    found = walk_nce(ahead, token, token - 1, weight, case.negatives(), 0.2)
    walks, sampled, other = case.walks(), case.sampled.detach().double().numpy(), case.other
    expected = 0.0
    for (row, place), flow, own in zip(chosen, ahead.double().numpy(), weight.tolist(), strict=True):
        kept = [n for n, item in enumerate(other.tolist()) if item not in line[row][place:]]
        item, vector = walks[row][place]
        loss = oracles.info_nce([flow[None]], [vector[None]], [[item]], [np.zeros(1)], [0], [0], sampled[kept],
                                other[kept].tolist(), case.other_logq.double().numpy()[kept], [walks[row][:place]], 0.2,
                                float(case.again))
        expected += own * loss[0][0]
    assert float(found[0]) == pytest.approx(expected, rel=1e-4, abs=1e-4)
    assert float(found[1]) == pytest.approx(float(weight.sum()))


def test_perfect_flows_have_a_lower_loss_than_random_ones() -> None:
    case = Case(1)
    random = value(case.nce())
    perfect = case.flow.detach().clone()
    perfect[case.steps.page, case.steps.place] = case.target.detach()
    case.flow = perfect
    assert value(case.nce()) < random


def test_steps_without_a_future_and_items_ahead_of_the_user_have_no_gradient() -> None:
    case = Case(2)
    case.user[:], case.part[:] = 1, 0
    case.other = case.item[:1].expand(9).clone()
    case.other[0] = 99
    case.nce()[0].backward()
    assert float(case.flow.grad[~torch.nn.functional.pad(case.steps.mask, (0, K - case.steps.longest))].abs().sum()) == 0
    assert float(case.sampled.grad[1:].abs().sum()) == 0 and float(case.sampled.grad[0].abs().sum()) > 0


def test_rows_of_another_part_do_not_change_the_loss_of_a_part() -> None:
    case = Case(5)
    case.part = torch.tensor([0, 0, 0, 0, 1, 1, 1])
    inside = case.part.index_select(0, case.steps.page) == 0
    case.weight = (case.part == 0).float()
    before = case.nce()
    with torch.no_grad():
        case.flow[4:] = case.flow[4:].flip(0)
        case.target[~inside] = -case.target[~inside]
        case.item[~inside] += 3
        case.user[4:] = 0
    assert torch.equal(torch.stack(before), torch.stack(case.nce()))


def test_without_any_negative_the_loss_and_its_gradient_are_zero() -> None:
    case = Case(4)
    case.user[:], case.part[:], case.other[:], case.walk_item[:] = 0, 0, case.item[0], 0
    found = case.nce()
    found[0].backward()
    assert float(found[0]) == 0 and float(case.flow.grad.abs().sum()) == 0


@settings(deadline=None, max_examples=25)
@given(SEEDS)
def test_diversity_and_velocity_equal_their_oracles(seed: int) -> None:
    case = Case(seed)
    weight = case.weight = torch.rand(7, generator=torch.Generator().manual_seed(seed)) + 0.1
    paths, share = case.paths(), weight.double().numpy() / float(weight.sum())
    base = case.base.detach().double().numpy()
    assert value(flat_diversity(case.flow, weight, 0.1)) == pytest.approx(
        sum(share * [oracles.flat_diversity(p, 0.1) for p in paths]), abs=1e-5)
    assert value(sphere_diversity(case.base, case.flow, weight)) == pytest.approx(
        sum(share * [oracles.sphere_diversity(b, p) for b, p in zip(base, paths, strict=True)]), abs=1e-5)
    longest = torch.linspace(0.5, 2.0, 7)
    assert value(sphere_velocity(case.flow, longest, weight)) == pytest.approx(
        sum(share * [oracles.sphere_velocity(p, t) for p, t in zip(paths, longest.tolist(), strict=True)]), rel=1e-5)


@pytest.mark.parametrize("matched", [True, False])
@pytest.mark.parametrize("seed", range(5))
def test_flat_velocity_equals_its_oracle(seed: int, matched: bool) -> None:
    case = Case(seed)
    total = weights = 0.0
    for path, ahead in zip(case.paths(), case.cuts(case.target), strict=True):
        for k in range(len(ahead) - 1):
            change = path[k + 1] - path[k] - ((ahead[k + 1] - ahead[k]) if matched else 0)
            total, weights = total + float(change @ change), weights + 1
    found = flat_velocity(case.flow, case.target, case.steps, case.weight, matched)
    assert (float(found[0]), float(found[1])) == (pytest.approx(total, rel=1e-5), weights)


def test_matched_velocity_of_perfect_flows_is_zero_and_equal_steps_are_not_diverse() -> None:
    case = Case(6)
    perfect = case.flow.detach().clone()
    perfect[case.steps.page, case.steps.place] = case.target.detach()
    assert float(flat_velocity(perfect, case.target, case.steps, case.weight, True)[0]) == pytest.approx(0, abs=1e-9)
    collapsed = case.flow[:, :1].expand(-1, K, -1)
    assert value(flat_diversity(collapsed, case.weight, 0.5)) > value(flat_diversity(case.flow, case.weight, 0.5))


def test_gradients_are_finite_when_all_steps_are_one_point_or_opposite() -> None:
    point = torch.nn.functional.normalize(torch.ones(2, D), dim=1)
    for sign in (1.0, -1.0):
        flow = torch.stack([point, sign * point, point, sign * point], 1).requires_grad_()
        base = point.clone().requires_grad_()
        total = sphere_diversity(base, flow, torch.ones(2))[0] + sphere_velocity(flow, torch.full((2,), 0.3), torch.ones(2))[0]
        total.backward()
        assert torch.isfinite(total) and torch.isfinite(flow.grad).all() and torch.isfinite(base.grad).all()


def test_a_flow_of_one_step_has_no_diversity_and_no_velocity() -> None:
    flow = torch.nn.functional.normalize(torch.randn(3, 1, D), dim=2)
    steps, weight = Jagged(torch.ones(3)), torch.ones(3)
    for found in (flat_diversity(flow, weight, 0.5), flat_velocity(flow, flow[:, 0], steps, weight, True),
                  sphere_diversity(flow[:, 0], flow, weight), sphere_velocity(flow, weight, weight)):
        assert float(found[0]) == 0


def test_the_usual_longest_step_is_the_quantile_of_each_parts_targets() -> None:
    case = Case(8)
    case.part = torch.tensor([0, 0, 0, 1, 1, 1, 2])
    case.steps = Jagged(torch.tensor([4, 3, 2, 4, 4, 1, 1]))
    case.target = torch.nn.functional.normalize(torch.randn(19, D), dim=1)
    ahead = case.cuts(case.target)
    found = usual_longest_step(case.target, case.steps, case.part, case.weight, 0.9).tolist()
    for rows in (range(3), range(3, 6)):
        angles = [math.acos(a @ b) for r in rows for a, b in zip(ahead[r], ahead[r][1:], strict=False)]
        expected = np.quantile(angles, 0.9, method="inverted_cdf")
        assert [found[r] for r in rows] == [pytest.approx(expected, abs=1e-5)] * 3
    assert found[6] == pytest.approx(math.pi)
    case.weight[0] = 0
    without = usual_longest_step(case.target, case.steps, case.part, case.weight, 0.9).tolist()
    angles = [math.acos(a @ b) for r in (1, 2) for a, b in zip(ahead[r], ahead[r][1:], strict=False)]
    assert without[0] == pytest.approx(np.quantile(angles, 0.9, method="inverted_cdf"), abs=1e-5)
