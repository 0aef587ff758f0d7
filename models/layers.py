"""Layers shared by models. Histories are padded once a page, [B, T, d]; shown items stay jagged, [N, d]."""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHORT = 8
"""Rows up to this length are padded alike."""


class Jagged:
    """Where the values of a jagged feature lie: conversions between jagged [N, ...] and padded [B, L, ...].

    Where all pages are of one length (`full`) both have the same memory, and nothing is copied.

    Parameters
    ----------
    lengths : [B] values a page.
    """

    def __init__(self, lengths: Tensor) -> None:
        lengths = lengths.long()
        self.pages = int(lengths.shape[0])
        self.longest = max(int(lengths.max()) if self.pages else 0, 1)
        self.offsets = torch.zeros(self.pages + 1, dtype=torch.long, device=lengths.device)
        torch.cumsum(lengths, 0, out=self.offsets[1:])
        self.total = int(self.offsets[-1])
        self.mask = torch.arange(self.longest, device=lengths.device)[None, :] < lengths[:, None]
        self.flat = self.mask.flatten().nonzero().squeeze(1)
        self.page = self.flat // self.longest
        self.place = self.flat % self.longest
        self.full = self.total == self.pages * self.longest

    def pad(self, values: Tensor, fill: float = 0.0) -> Tensor:
        """[N, ...] -> [B, L, ...], the rest filled."""
        shape = (self.pages, self.longest, *values.shape[1:])
        if self.full:
            return values.reshape(shape)
        padded = values.new_full((self.pages * self.longest, *values.shape[1:]), fill)
        return padded.index_copy_(0, self.flat, values).view(shape)

    def unpad(self, padded: Tensor) -> Tensor:
        """[B, L, ...] -> [N, ...]."""
        values = padded.flatten(0, 1)
        return values if self.full else values.index_select(0, self.flat)

    def page_mean(self, values: Tensor) -> Tensor:
        """[N, d] -> [N, d]: the mean over the other values of the same page and itself."""
        sums = values.new_zeros(self.pages, values.shape[1]).index_add(0, self.page, values)
        counts = self.mask.sum(1).clamp(min=1).to(values.dtype)
        return (sums / counts[:, None]).index_select(0, self.page)


def of_one_length(lengths: Tensor) -> list[Tensor]:
    """Places of the rows of about one length, group after group: padding all to the longest would cost several times as much."""
    size = lengths.clamp(min=_SHORT).double().log2().ceil()
    return [(size == one).nonzero().squeeze(1) for one in torch.unique(size)]


class HashedDropout(nn.Module):
    """Dropout whose mask is a function of (seed, step, row key, column), so the same for any number of ranks and after a resume.

    Parameters
    ----------
    share : share of values set to zero while training. salt : tells the layers of one model apart.
    """

    def __init__(self, share: float, salt: int) -> None:
        super().__init__()
        self.share = share
        self.salt = salt
        self.step = 0
        self._least = math.ceil(float(torch.tensor(share)) * (1 << 24))

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        """x : [N, d]. key : [N] int64 that names a row wherever it is computed."""
        if not self.training or self.share == 0.0:
            return x
        column = torch.arange(1, x.shape[1] + 1, device=x.device) * 0x9E3779B1 + (self.salt * 7919 + self.step) * 0x85EBCA77
        # In place: the numbers are as many as those of x, and of twice their size.
        mixed = (key[:, None] ^ column[None, :]).mul_(0x2545F4914F6CDD1D).bitwise_right_shift_(33).bitwise_and_(0xFFFFFF)
        kept = mixed >= self._least
        return x * (kept.to(x.dtype) * (1.0 / (1.0 - self.share)))


class TargetAttention(nn.Module):
    """DIN's activation unit (arXiv 1706.06978, section 4.3), computed without one copy of the history a shown item.

    The unit is a one-hidden-layer network on [q, k, q - k, q * k]. Its first layer is linear, so it splits exactly into a part of
    the candidate, a part of the token, and per hidden unit a bilinear form of both: a page's hidden values are one matrix product
    of [L * hidden, d] with [d, T]. Two departures from the paper: leaky ReLU in place of Dice (Dice couples the pages of a batch),
    and weights are exp(s) / (1 + sum exp(s)): bounded, of sum below 1, so that their sum still tells how much of the history is
    relevant, and zero for an empty history.
    """

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.hidden = hidden
        self.item = nn.Linear(dim, hidden)
        self.token = nn.Parameter(torch.randn(hidden, dim) / math.sqrt(dim))
        self.product = nn.Parameter(torch.randn(hidden, dim) / math.sqrt(dim))
        self.out = nn.Parameter(torch.randn(hidden) / math.sqrt(hidden))
        self.bias = nn.Parameter(torch.full((1,), -1.0))

    def forward(self, queries: Tensor, keys: Tensor, mask: Tensor) -> Tensor:
        """queries [B, L, d], keys [B, T, d], mask [B, T] -> weights [B, L, T]."""
        pages, items, dim = queries.shape
        mixed = queries[:, :, None, :] * self.product + self.token
        own = self.item(queries).view(pages, items * self.hidden, 1)
        hidden = torch.baddbmm(own, mixed.view(pages, -1, dim), keys.transpose(1, 2))
        hidden = F.leaky_relu(hidden, 0.1).view(pages * items, self.hidden, keys.shape[1])
        score = torch.bmm(self.out.expand(pages * items, 1, self.hidden), hidden).view(pages, items, -1) + self.bias
        score = score.masked_fill(~mask[:, None, :], float("-inf"))
        return F.softmax(F.pad(score, (1, 0)), dim=2)[:, :, 1:]


class MatchChannels(nn.Module):
    """How often, how lately and how a candidate's own id occurs in the history: sums of learned token weights over equal ids.

    A token's weights are a softplus of its context (scene, action, age), one a channel; log1p of their sums over the tokens
    whose id equals the candidate's gives [B, L, channels]. Index 0 (no id) equals nothing.
    """

    def __init__(self, context_dim: int, channels: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(context_dim, channels)

    def forward(self, candidate: Tensor, token: Tensor, context: Tensor) -> Tensor:
        """candidate [B, L] and token [B, T] ids (padding 0), context [B, T, c]."""
        equal = (candidate[:, :, None] == token[:, None, :]) & (token[:, None, :] > 0)
        return torch.log1p(torch.bmm(equal.to(context.dtype), F.softplus(self.weigh(context))))


class Mlp(nn.Module):
    """Linear layers with ReLU and layout-independent dropout, and one output."""

    def __init__(self, width: int, hidden: Sequence[int], dropout: float) -> None:
        super().__init__()
        sizes = [width, *hidden]
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))
        self.drops = nn.ModuleList(HashedDropout(dropout, salt) for salt in range(len(self.layers)))
        self.out = nn.Linear(sizes[-1], 1)

    def forward(self, x: Tensor, key: Tensor) -> Tensor:
        """x [N, width], key [N] -> [N]."""
        for layer, drop in zip(self.layers, self.drops, strict=True):
            x = drop(F.relu(layer(x)), key)
        return self.out(x).squeeze(1)
