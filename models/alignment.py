"""Semantic alignment (SAM): what a candidate finds in the frozen generator's flow of its page (arXiv 2510.11317, a reconstruction).

Pages are padded: candidates [B, L, d], flows [B, K, d]. A gate a candidate and step is a scalar, and projections of the gated steps
have no bias, so nothing of size [B, L, K, d] is ever made.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from models.attention import split_heads
from models.flow_metrics import normalised

Kind = Literal["full", "cos_gate", "none"]


class SemanticAlignment(nn.Module):
    """The steps of a flow, gated by candidate and context, and their cosines to the candidate.

    aligned f = LN(W f + b), W the identity at first; gate = sigmoid of a network on [f, e, f * e, cosine, context] (`full`), or of
    a line in the cosine (`cos_gate`). With `none` the flow is taken as it is, and every gate is 1.

    Parameters
    ----------
    hidden : units of the gate's network.
    """

    def __init__(self, dim: int, kind: Kind, hidden: int) -> None:
        super().__init__()
        self.kind = kind
        self.candidate = _identity(dim)
        if kind != "none":
            self.map, self.norm = _identity(dim), nn.LayerNorm(dim)
        if kind == "cos_gate":
            self.line = nn.Parameter(torch.tensor([1.0, 0.0]))
        if kind == "full":
            self.step, self.item, self.context = nn.Linear(dim, hidden), nn.Linear(dim, hidden), nn.Linear(dim, hidden)
            self.product = nn.Parameter(torch.randn(hidden, dim) / math.sqrt(dim))
            self.cosine, self.out = nn.Parameter(torch.randn(hidden)), nn.Parameter(torch.randn(hidden) / hidden)
            self.bias = nn.Parameter(torch.zeros(1))

    def forward(self, flow: Tensor, candidates: Tensor, context: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """flow [B, K, d], candidates [B, L, d], context [B, d].

        Returns
        -------
        aligned steps [B, K, d]; gates [B, L, K]; cosines [B, L, K]; and [B, L] the misalignment 1 - the largest cosine, for which
        the candidate is a constant.
        """
        aligned = flow if self.kind == "none" else self.norm(self.map(flow))
        ends, steps = normalised(self.candidate(candidates)), normalised(aligned)
        cosine = torch.bmm(ends, steps.transpose(1, 2))
        strict = torch.bmm(ends.detach(), steps.transpose(1, 2))
        return aligned, self._gate(aligned, candidates, context, cosine), cosine, 1.0 - strict.amax(2)

    def _gate(self, aligned: Tensor, candidates: Tensor, context: Tensor, cosine: Tensor) -> Tensor:
        if self.kind == "none":
            return torch.ones_like(cosine)
        if self.kind == "cos_gate":
            return torch.sigmoid(self.line[0] * cosine + self.line[1])
        pages, steps, dim = aligned.shape
        mixed = (aligned[:, :, None, :] * self.product).view(pages, -1, dim)
        hidden = torch.bmm(candidates, mixed.transpose(1, 2)).view(pages, -1, steps, self.product.shape[0])
        own = (self.item(candidates) + self.context(context)[:, None])[:, :, None]
        hidden = hidden + own + self.step(aligned)[:, None] + cosine[..., None] * self.cosine
        return torch.sigmoid(F.leaky_relu(hidden, 0.1) @ self.out + self.bias)


class GatedAttention(nn.Module):
    """Multi-head attention of candidates on steps whose keys and values are scaled by a gate of their own for each candidate."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.memory = nn.Linear(dim, dim), nn.Linear(dim, 2 * dim, bias=False)
        self.out = nn.Linear(dim, dim)

    def forward(self, candidates: Tensor, steps: Tensor, gate: Tensor) -> Tensor:
        """candidates [B, L, d], steps [B, K, d], gate [B, L, K] -> [B, L, d]."""
        query, keys, values = (split_heads(x, self.heads) for x in (self.query(candidates), *self.memory(steps).chunk(2, 2)))
        gates = gate[:, None]
        score = query @ keys.transpose(2, 3) * gates / math.sqrt(query.shape[3])
        found = (F.softmax(score, 3) * gates) @ values
        return self.out(found.transpose(1, 2).flatten(2))


def summary(cosine: Tensor) -> tuple[Tensor, Tensor]:
    """[B, L, 2] largest and mean cosine over the steps, and [B, L, K] a one at the step that is largest.

    Examples
    --------
    >>> both, place = summary(torch.tensor([[[0.5, 1.0]]]))
    >>> both.tolist(), place.tolist()
    ([[[1.0, 0.75]]], [[[0.0, 1.0]]])
    """
    largest, place = cosine.max(2)
    return torch.stack([largest, cosine.mean(2)], 2), F.one_hot(place, cosine.shape[2]).to(cosine.dtype)


def _identity(dim: int) -> nn.Linear:
    layer = nn.Linear(dim, dim)
    nn.init.eye_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
