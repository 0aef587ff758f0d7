"""Geometry of the unit sphere in d dimensions, in float32: what the sphere form of the flow regularisers is made of.

Textbook differential geometry; that Next Interest Flow (arXiv 2510.11317) uses these very formulas is our reconstruction.
All functions take points and vectors [..., d] and broadcast. A cosine is clipped to +-(1 - 1e-6), and what has no value at angle 0
(angle / sine) is a series there, so values and gradients are finite everywhere, at equal and at opposite points too.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

_LIMIT = 1.0 - 1e-6
_SERIES = 1e-4
"""Below this 1 - cosine (or squared length) the series is exact to float32."""


def angle(x: Tensor, y: Tensor) -> Tensor:
    """[...] geodesic distance of unit vectors, in radians."""
    return torch.arccos(_cosine(x, y).clamp(-_LIMIT, _LIMIT)).squeeze(-1)


def log_map(x: Tensor, y: Tensor) -> Tensor:
    """[..., d] the tangent vector at x that points to y and is as long as their distance.

    Opposite points have no such direction: there it is 0.
    """
    cosine = _cosine(x, y)
    clipped = cosine.clamp(-_LIMIT, _LIMIT)
    less = 1.0 - clipped
    near = less < _SERIES
    far = torch.where(near, torch.zeros_like(clipped), clipped)
    ratio = torch.where(near, 1.0 + less / 3.0 + less.square() * (2.0 / 15.0), torch.arccos(far) / (1.0 - far.square()).sqrt())
    return ratio * (y - cosine * x)


def exp_map(x: Tensor, tangent: Tensor) -> Tensor:
    """[..., d] the point reached from x along a geodesic with this tangent vector."""
    squared = tangent.square().sum(-1, keepdim=True)
    near = squared < _SERIES
    length = torch.where(near, torch.ones_like(squared), squared).sqrt()
    cosine = torch.where(near, 1.0 - squared / 2.0 + squared.square() / 24.0, length.cos())
    ratio = torch.where(near, 1.0 - squared / 6.0 + squared.square() / 120.0, length.sin() / length)
    return cosine * x + ratio * tangent


def transport(x: Tensor, y: Tensor, tangent: Tensor) -> Tensor:
    """[..., d] a tangent vector at x, carried along the geodesic to y without turning.

    w - (y . w) / (1 + x . y) (x + y): the usual expression with logarithms, simplified, which needs no care at x = y.
    """
    share = (y * tangent).sum(-1, keepdim=True) / (1.0 + _cosine(x, y)).clamp(min=1e-6)
    return tangent - share * (x + y)


def acceleration(path: Tensor) -> Tensor:
    """[..., K - 2, d] covariant second difference of points [..., K, d]; zero iff they lie on one geodesic at one speed."""
    before, here, after = path[..., :-2, :], path[..., 1:-1, :], path[..., 2:, :]
    return log_map(here, after) - transport(before, here, log_map(before, here))


def around_heading(base: Tensor, path: Tensor) -> Tensor:
    """[..., K, d] tangent vectors at base [..., d] to points [..., K, d], less their part along the mean of all K."""
    tangents = log_map(base.unsqueeze(-2), path)
    heading = F.normalize(tangents.mean(-2, keepdim=True), dim=-1)
    return tangents - (tangents * heading).sum(-1, keepdim=True) * heading


def _cosine(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)
