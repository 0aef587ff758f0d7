import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from models.sphere import acceleration, angle, around_heading, exp_map, log_map, transport
from tests.models import oracles

SEEDS = st.integers(0, 10_000)


def points(*shape: int, seed: int) -> Tensor:
    found = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(found, dim=-1)


def same(found: Tensor, expected: np.ndarray, atol: float = 1e-5) -> None:
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=atol)


@settings(deadline=None, max_examples=40)
@given(SEEDS, st.sampled_from([3, 8, 16]))
def test_maps_and_transport_equal_the_oracle(seed: int, dim: int) -> None:
    x, y, tangent = points(3, 1, dim, seed=seed).unbind(0)
    tangent = 1.7 * (tangent - (tangent * x).sum(1, keepdim=True) * x)
    if float((x * y).sum()) < -0.99:
        return
    a, b, w = (v[0].double().numpy() for v in (x, y, tangent))
    same(log_map(x, y)[0], oracles.log_at(a, b))
    same(exp_map(x, tangent)[0], oracles.exp_at(a, w))
    same(transport(x, y, tangent)[0], oracles.carried(a, b, w), 2e-5)
    same(angle(x, y)[0], np.array(math.acos(a @ b)))


@settings(deadline=None, max_examples=30)
@given(SEEDS)
def test_identities_of_the_sphere(seed: int) -> None:
    x, y, w = points(3, 5, 8, seed=seed).unbind(0)
    there = log_map(x, y)
    torch.testing.assert_close((there * x).sum(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(there.norm(dim=1), angle(x, y), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(exp_map(x, there), y, atol=1e-5, rtol=0)
    w = w - (w * x).sum(1, keepdim=True) * x
    carried = transport(x, y, w)
    torch.testing.assert_close((carried * y).sum(1), torch.zeros(5), atol=1e-5, rtol=0)
    torch.testing.assert_close(carried.norm(dim=1), w.norm(dim=1), atol=1e-5, rtol=1e-4)


def test_a_geodesic_at_one_speed_has_no_acceleration_and_a_random_path_has() -> None:
    x, y = points(4, 8, seed=1), points(4, 8, seed=2)
    path = torch.stack([exp_map(x, log_map(x, y) * k / 5) for k in range(6)], 1)
    assert float(acceleration(path).abs().max()) < 1e-5
    assert float(acceleration(points(4, 6, 8, seed=3)).abs().max()) > 0.1


def test_acceleration_equals_the_oracle() -> None:
    paths = points(6, 5, 16, seed=4)
    same(acceleration(paths), np.stack([oracles.bends(path) for path in paths.double().numpy()]))


def test_nothing_is_left_along_the_heading() -> None:
    base, path = points(5, 8, seed=5), points(5, 4, 8, seed=6)
    left = around_heading(base, path)
    torch.testing.assert_close(left.mean(1), torch.zeros(5, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close((left * base[:, None]).sum(2), torch.zeros(5, 4), atol=1e-5, rtol=0)


@pytest.mark.parametrize("how_far", [0.0, 1e-8, 1e-5, 1e-3, 1.4e-3, math.pi - 1e-3, math.pi - 1e-5, math.pi])
def test_values_and_gradients_are_finite_at_the_limits(how_far: float) -> None:
    x = torch.eye(8)[:1]
    toward = torch.eye(8)[1:2]
    y = math.cos(how_far) * x + math.sin(how_far) * toward
    for function in (angle, log_map, lambda a, b: transport(a, b, toward), lambda a, b: exp_map(a, b - a),
                     lambda a, b: acceleration(torch.stack([a, b, a], 1)), lambda a, b: around_heading(a, torch.stack([b, a], 1))):
        first, second = x.clone().requires_grad_(), y.clone().requires_grad_()
        found = function(first, second)
        assert torch.isfinite(found).all()
        found.square().sum().backward()
        assert torch.isfinite(first.grad).all() and torch.isfinite(second.grad).all()


@pytest.mark.parametrize("how_far", [1e-4, 1e-3, 0.01, 0.0142, 0.02])
def test_the_series_near_zero_meets_the_formula(how_far: float) -> None:
    x = torch.eye(8)[:1]
    y = math.cos(how_far) * x + math.sin(how_far) * torch.eye(8)[1:2]
    assert float(log_map(x, y)[0, 1]) == pytest.approx(how_far, rel=1e-4)
    torch.testing.assert_close(exp_map(x, log_map(x, y)), y, atol=1e-6, rtol=0)
