"""SASRec (arXiv 1808.09781) with a full softmax, our own: the rival of `benchmarks/beauty.py`, which trains and judges it.

Departures from the paper: cross-entropy over all items in place of one drawn negative, which is much the stronger loss here, and
blocks with the norm first. It shares no layer and no training loop with `models`, so that a fault there is not its fault too.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

_SHORT_OF = 8
"""Lines of about one length make a batch: their lengths are drawn apart by up to this factor of a batch."""

_STEEP = 14.0
"""Score of an item after itself, when item vectors are given: about the inverse of the temperature of `nif`."""


@dataclass(frozen=True)
class Settings:
    """Settings of SASRec and of its training.

    batch: users a step. patience: epochs without a better validation. begin: whether it starts from item vectors of co-occurrence.
    repeats: whether it learns, as `nif` does, one number that is added to the score of the items of the line so far.
    """

    dim: int = 64
    layers: int = 2
    heads: int = 2
    dropout: float = 0.5
    embedding_dropout: float = 0.5
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    batch: int = 256
    epochs: int = 40
    patience: int = 3
    longest: int = 50
    begin: bool = False
    repeats: bool = False
    seed: int = 0


class SasRec(nn.Module):
    """Item and place vectors through causal blocks; an item's score is its dot product with the last state.

    Parameters
    ----------
    items : indexes are 1..items; 0 pads.
    """

    def __init__(self, settings: Settings, items: int) -> None:
        super().__init__()
        d = settings.dim
        self.item = nn.Embedding(items + 1, d, padding_idx=0)
        self.place = nn.Embedding(settings.longest, d)
        self.again = nn.Parameter(torch.zeros(())) if settings.repeats else None
        for table in (self.item, self.place):
            nn.init.normal_(table.weight, std=0.02)
        layer = nn.TransformerEncoderLayer(d, settings.heads, 4 * d, settings.dropout, "gelu", batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(layer, settings.layers, nn.LayerNorm(d), enable_nested_tensor=False)
        self.first = nn.Sequential(nn.LayerNorm(d), nn.Dropout(settings.embedding_dropout))

    def forward(self, line: Tensor) -> Tensor:
        """line [B, T] int64, padded at its end -> states [B, T, d]. Places are counted back from the last item."""
        length = (line > 0).sum(1, keepdim=True)
        before = (length - 1 - torch.arange(line.shape[1])).clamp(min=0)
        later = torch.ones(line.shape[1], line.shape[1], dtype=torch.bool).triu(1)
        return self.blocks(self.first(self.item(line) + self.place(before)), mask=later, is_causal=True)

    @torch.no_grad()
    def start_with(self, vectors: Tensor) -> None:
        """Begin from item vectors, so that a state begins as the last item: as `models.cooccurrence.begin` has it."""
        self.item.weight.copy_(vectors / vectors.norm(dim=1, keepdim=True).clamp(min=1e-6) * _STEEP / vectors.shape[1] ** 0.5)
        for layer in self.blocks.layers:
            for last in (layer.self_attn.out_proj, layer.linear2):
                nn.init.zeros_(last.weight)
                nn.init.zeros_(last.bias)

    def score(self, states: Tensor, line: Tensor, at: Tensor) -> Tensor:
        """states [n, d] of places [B, T] (`at`, true at n of them) of lines [B, T] -> [n, items]."""
        found = states @ self.item.weight[1:].T
        if self.again is None:
            return found
        row, last = at.nonzero(as_tuple=True)
        past = (torch.arange(line.shape[1]) <= last[:, None]) & (line[row] > 0)
        state, place = past.nonzero(as_tuple=True)
        return found.index_put((state, line[row[state], place] - 1), self.again.expand(len(state)), accumulate=True)


def padded(lines: Sequence[np.ndarray], longest: int) -> Tensor:
    """The last `longest` items of some lines, [n, T], padded with 0 at the end."""
    return nn.utils.rnn.pad_sequence([torch.from_numpy(line[-longest:]) for line in lines], batch_first=True)


def batches(lengths: np.ndarray, size: int, draw: np.random.Generator) -> list[np.ndarray]:
    """A random order of lines, cut into batches; lines of about one length together, to pad less."""
    near = np.log2(lengths) + draw.random(len(lengths)) * math.log2(_SHORT_OF)
    order = np.argsort(near, kind="stable")
    parts = [order[n: n + size] for n in range(0, len(order), size)]
    return [parts[n] for n in draw.permutation(len(parts))]


def train(lines: Sequence[np.ndarray], items: int, settings: Settings, judge: Callable[[SasRec], float],
          start: Tensor | None, odds: float) -> tuple[SasRec, int]:
    """The model of the epoch that `judge` (higher is better) likes best, and that epoch.

    start : [items + 1, d] item vectors. odds : log of the odds that an item of a line comes again, where `repeats` begins.
    """
    torch.manual_seed(settings.seed)
    draw, model = np.random.default_rng(settings.seed), SasRec(settings, items)
    if start is not None:
        model.start_with(start)
    if model.again is not None:
        nn.init.constant_(model.again, odds)
    optimizer = torch.optim.AdamW(model.parameters(), settings.learning_rate, (0.9, 0.98), weight_decay=settings.weight_decay)
    lengths = np.array([len(line) for line in lines])
    best, best_epoch, kept = -math.inf, -1, dict[str, Tensor]()
    for epoch in range(settings.epochs):
        model.train()
        for part in batches(lengths, settings.batch, draw):
            _step(model, padded([lines[n] for n in part], settings.longest + 1), optimizer)
        model.eval()
        found = judge(model)
        if found > best:
            best, best_epoch, kept = found, epoch, {name: value.clone() for name, value in model.state_dict().items()}
        elif epoch - best_epoch > settings.patience:
            break
    model.load_state_dict(kept)
    return model.eval(), best_epoch


def _step(model: SasRec, line: Tensor, optimizer: torch.optim.Optimizer) -> None:
    """One step on all places of some lines."""
    past, wanted = line[:, :-1], line[:, 1:]
    asked = wanted > 0
    loss = F.cross_entropy(model.score(model(past)[asked], past, asked), wanted[asked] - 1)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def scores(model: SasRec, lines: Sequence[np.ndarray]) -> Tensor:
    """[n, items] scores of the next item of some lines."""
    line = padded(lines, model.place.num_embeddings)
    last = torch.arange(line.shape[1]) == (line > 0).sum(1, keepdim=True) - 1
    return model.score(model(line)[last], line, last)
