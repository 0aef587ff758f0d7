"""item2vec: item vectors from pairs of one page; items clicked together attract, an item clicked without the other repels.

An item's vector is its own plus its category's, so that an item which was rarely clicked, or never, is like those of its kind.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from feature_store.batch import PAIR_FEATURES, PAIR_TABLES, PairBatch
from models.base import Model, ModelConfig
from models.embeddings import completed
from models.losses import CO_CLICK, MONO_CLICK, Terms, pair_terms


class Item2vecConfig(ModelConfig):
    """Settings of `item2vec`."""

    dim: int = Field(32, ge=8, multiple_of=4, description="columns of the tables: a vector of dim - 1, and a bias")
    items_a_batch: int = Field(8_192, ge=1, description="pairs of a global batch, about")
    table_learning_rate: float = Field(0.01, gt=0)
    epochs: int = Field(2, ge=1)


class Item2vec(Model):
    """Logits [M] of the pairs of a PairBatch: exp(scale) * cosine of the two vectors + both biases + a constant.

    The last column of a row is its bias: how readily the item is clicked at all, so that vectors need not say so.
    """

    name = "item2vec"
    reads = "pairs"
    config_type = Item2vecConfig
    features: Mapping[str, tuple[str, ...]] = PAIR_TABLES  # type: ignore[misc]

    def __init__(self, config: Item2vecConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        self.scale = nn.Parameter(torch.tensor([1.0]))
        self.constant = nn.Parameter(torch.zeros(1))

    def forward(self, batch: PairBatch) -> Tensor:
        """One logit a pair, in the batch's order; the same for (a, b) and (b, a)."""
        vectors = self.tables(batch.sparse)
        left, right = (vectors[side].values() + _known(batch, side) * vectors[f"{side}_category"].values()
                       for side in ("left", "right"))
        cosine = F.cosine_similarity(left[:, :-1], right[:, :-1], dim=1, eps=1e-6)
        return self.scale.exp() * cosine + (left[:, -1] + right[:, -1]) + self.constant

    def items(self, item: Tensor, category: Tensor) -> Tensor:
        """[n, dim - 1] unit vectors of items by index [n], whose inner products are the cosines of pairs."""
        one = torch.ones_like(item, dtype=torch.int32)
        given = {"left": JaggedTensor(item, lengths=one), "left_category": JaggedTensor(category, lengths=one)}
        found = self.tables(completed(given, PAIR_FEATURES, len(item)))
        own = found["left"].values() + (category > 0).float()[:, None] * found["left_category"].values()
        return F.normalize(own[:, :-1], dim=1)

    @staticmethod
    def terms(logits: Tensor, batch: PairBatch) -> Terms:
        """Contrastive logistic loss, both kinds weighing the same."""
        return pair_terms(logits, batch)

    @staticmethod
    def targets(batch: PairBatch) -> tuple[Tensor, Tensor]:
        """1 for co-click; pairs neither co-click nor mono-click have weight 0."""
        counts = (batch.kind == CO_CLICK) | (batch.kind == MONO_CLICK)
        return (batch.kind == CO_CLICK).float(), torch.where(counts, batch.weight, torch.zeros_like(batch.weight))


def _known(batch: PairBatch, side: str) -> Tensor:
    """[M, 1] 1 for items whose category is known."""
    return (batch.sparse[f"{side}_category"].values() > 0).float()[:, None]
