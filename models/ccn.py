"""ccn: collaborative contrastive network (arXiv 2411.11508), for scenarios that were never trained on.

The click module treats (user, trigger) as one condition and reads no scenario. The collaborative module learns which shown items
go together under that condition, from pairs of items of one page, and exists while training only: what it teaches lies in the item
vectors, the trigger's, and the condition, which the click module reads. The paper names the modules, the two losses and the kinds
of pairs; layers and equations are a reconstruction.
"""

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import pyarrow.parquet as pq
import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn

from feature_store.batch import PageBatch
from feature_store.collate import flat, lengths
from feature_store.encoded_set import EncodedSet
from models.layers import TargetAttention
from models.losses import Terms, combined, page_terms
from models.page_pairs import Sampling, Viewed, pair_losses, pairs_of, supervised_contrast
from models.triggered import Triggered, TriggeredConfig

_RAREST = 10.0
"""A kind of pair weighs at most so many times as much as the most frequent one."""


class CcnConfig(TriggeredConfig):
    """Settings of `ccn`."""

    collaborative: int = Field(64, ge=2, description="columns of the vectors that are compared")
    form: Literal["pairs", "supcon"] = Field("pairs", description="attraction and repulsion, or supervised contrast by `attract`")
    attract: float = Field(0.1, ge=0, description="weight of the attraction of co-click and co-non-click pairs")
    repel: float = Field(0.1, ge=0, description="weight of the repulsion of mono-click pairs")
    temperature: float = Field(0.1, gt=0, description="cosines are divided by it")
    pair_weights: tuple[float, float, float] | None = Field(
        None, description="of co-click, co-non-click, mono-click pairs; none: the inverse of how frequent each is in training rows")
    co_non_click: float = Field(0.0, ge=0, description="such pairs taken an item, on average over its page; 0: all")
    mono_click: float = Field(0.0, ge=0, description="such pairs taken an item, on average over its page; 0: all")
    quiet: float = Field(1.0, gt=0, le=1, description="share of the pages without a click whose pairs are taken")
    labels: Literal["own", "permuted"] = Field("own", description="clicks that pairs are told by; permuted on each page: a control")

    @model_validator(mode="after")
    def _whole_sums(self) -> Self:
        if self.form == "supcon" and not self.sampling(0).all:
            raise ValueError("supcon has a sum inside its logarithm: co_non_click, mono_click and quiet stay as they are")
        return self

    def sampling(self, step: int) -> Sampling:
        """Which pairs a step takes."""
        return Sampling(self.co_non_click, self.mono_click, self.quiet, step)


class Conditioned(NamedTuple):
    """What ccn gives for N shown items: logits [N]; compared [N, collaborative] unit vectors while training, else empty."""

    logits: Tensor
    compared: Tensor


class Ccn(Triggered):
    """Scores of the shown items of a PageBatch."""

    name = "ccn"
    config_type = CcnConfig
    config: CcnConfig

    def __init__(self, config: CcnConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows, parts=5)
        d = config.dim
        self.step = 0
        self.attend = TargetAttention(d, config.attention_hidden)
        self.condition = nn.Sequential(nn.Linear(4 * d, d), nn.ReLU(), nn.Linear(d, 2 * d))
        if config.attract or config.repel:
            self.collaborative = nn.Sequential(nn.Linear(2 * d, config.collaborative), nn.ReLU(),
                                               nn.Linear(config.collaborative, config.collaborative))

    @classmethod
    def fitted(cls, settings: Mapping[str, Any], train_set: EncodedSet) -> dict[str, Any]:
        """The settings, with `pair_weights` from the pairs of the training rows unless they are given."""
        if cls.checked(settings).model_dump()["pair_weights"] is not None:
            return dict(settings)
        return {**settings, "pair_weights": inverse_frequency(pair_counts(train_set))}

    def set_step(self, step: int) -> None:
        """Also tells which pairs are sampled."""
        super().set_step(step)
        self.step = step

    def forward(self, batch: PageBatch) -> Conditioned:
        """Logits in the batch's order, and while training the vectors that pairs compare."""
        seen = self.look(batch)
        queries = torch.cat([seen.trigger[:, None], seen.asked], 1)
        found = torch.bmm(self.attend(queries, seen.tokens, seen.line.mask), seen.tokens)
        of_trigger, history = found[:, 0], seen.shown.unpad(found[:, 1:])
        scale, shift = self.condition(torch.cat([seen.user, seen.trigger, of_trigger, seen.context], 1)).chunk(2, 1)
        item = seen.item * (1.0 + seen.spread(scale)) + seen.spread(shift)
        logits = self.score(seen, item, history, seen.item * history, seen.spread(of_trigger), item * history)
        if not self.training or not hasattr(self, "collaborative"):
            return Conditioned(logits, logits.new_zeros(0))
        return Conditioned(logits, F.normalize(self.collaborative(torch.cat([item, history], 1)), dim=1))

    def terms(self, output: Conditioned, batch: PageBatch) -> Terms:
        """Binary cross-entropy of clicks; while training also attraction and repulsion, or supervised contrast."""
        clicks, config = page_terms(output.logits, batch), self.config
        parts = [(1.0, (clicks.sums[0], clicks.weights[0]))]
        if output.compared.dim() == 2:
            viewed = Viewed.of(batch)
            viewed = viewed.permuted() if config.labels == "permuted" else viewed
            if config.form == "supcon":
                parts.append((config.attract, supervised_contrast(output.compared, viewed, config.temperature)))
            else:
                parts += self._pairs(output.compared, viewed)
        return combined(*parts)

    def _pairs(self, compared: Tensor, viewed: Viewed) -> list[tuple[float, tuple[Tensor, Tensor]]]:
        config = self.config
        losses = pair_losses(compared, viewed, config.temperature, config.sampling(self.step))
        weights = losses.new_tensor(config.pair_weights or (1.0, 1.0, 1.0))
        # Exact counts, also with sampling: a loss over all pairs is then the expectation of the sampled one, not of a ratio.
        sums, counts = losses * weights, viewed.counts().sum(0).to(losses.dtype) * weights
        return [(config.attract, (sums[:2].sum(), counts[:2].sum())), (config.repel, (sums[2], counts[2]))]

    def validation_terms(self, output: Conditioned, batch: PageBatch) -> Terms:
        """Binary cross-entropy of clicks alone, so that epochs are picked by one rule whatever helps in training."""
        return page_terms(output.logits, batch)

    @staticmethod
    def logits(output: Conditioned) -> Tensor:
        """[N]."""
        return output.logits


def pair_counts(pages: EncodedSet) -> np.ndarray:
    """[3] pairs of viewed items of an encoded set by kind, from the closed forms of each page."""
    total = np.zeros(3, np.int64)
    for path in pages.paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=["clicked", "weight"])
                viewed, page = flat(table, "weight") > 0, np.repeat(np.arange(len(table)), lengths(table, "clicked"))
                clicked = viewed & (flat(table, "clicked") > 0)
                items, clicks = (np.bincount(page[kept], minlength=len(table)) for kept in (viewed, clicked))
                total += [int(pairs.sum()) for pairs in pairs_of(items, clicks)]
    return total


def inverse_frequency(counts: np.ndarray) -> tuple[float, float, float]:
    """Weights by kind that make all kinds count alike, the most frequent one 1 and none above `_RAREST`.

    Examples
    --------
    >>> inverse_frequency(np.array([10, 1_000, 500]))
    (10.0, 1.0, 2.0)
    """
    weights = np.minimum(counts.max() / np.maximum(counts, 1), _RAREST) if counts.any() else np.ones(3)
    co_click, co_non_click, mono_click = (round(float(weight), 6) for weight in weights)
    return co_click, co_non_click, mono_click
