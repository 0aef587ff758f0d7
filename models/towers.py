"""What the pre-ranking models share: a user's vector, an item's vector, and their cosine, as in TARQ (arXiv 2509.16931).

A candidate is known by its id and category alone, so that its side can be computed before anybody asks: no cross feature, no price
beside its page's. `two_tower` scores by the cosine alone; `target_attention` adds what each item finds in the user's history, the
upper bound of what `tarq` approximates. The paper names these parts; layers and the fusion of both scores are a reconstruction.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from feature_store.batch import FEATURES, PageBatch
from models.attention import MultiHead, with_null
from models.base import Model, ModelConfig
from models.din import PAGE
from models.embeddings import completed
from models.layers import HashedDropout, Jagged, Mlp
from models.losses import Terms, page_terms
from models.moveline import TargetLayer, TokenLayer, VisitLayer

_SHARPNESS = 5.0
"""What cosines are multiplied by at first; it is learned."""
_WHEN = ("moveline_scene", "moveline_action", "moveline_age")


class TowersConfig(ModelConfig):
    """Settings of every pre-ranking model."""

    dim: int = Field(32, ge=4, multiple_of=4, description="columns of the embedding tables and of all vectors")
    heads: int = Field(2, ge=1, description="of attention; narrow heads, below 16 columns, are slow on a CPU")
    tower: int = Field(64, ge=1, description="hidden units of both towers")
    dropout: float = Field(0.1, ge=0, lt=1, description="in towers and head")
    items_a_batch: int = Field(1_024, ge=1, description="shown items of a global batch, about; cosines need many steps")
    table_decay: float = Field(1e-3, ge=0, description="L2 of the rows that a step touches; against learning rare items by heart")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        return self


@dataclass(frozen=True)
class Read:
    """What a batch holds. B pages, N shown items, M steps of the longest walk (tokens and visits, after one null step), d columns.

    Attributes
    ----------
    shown : where the items lie. raw : [N, 2 d] vectors of id and category, item : [N, d] of both. place : [N, d] of the place on
        the page. context : [B, d] of the page.
    steps : [B, M, d] with mask [B, M]. taste : [B, d] mean of the history's items, as candidates.
    row : [B], key : [N] numbers that name a page or an item wherever it is computed.
    """

    shown: Jagged
    raw: Tensor
    item: Tensor
    place: Tensor
    context: Tensor
    steps: Tensor
    mask: Tensor
    taste: Tensor
    row: Tensor
    key: Tensor


@dataclass(frozen=True)
class Seen:
    """What the towers make of it. history : [B, M, d]. user : [B, d] and item : [N, d] unit vectors. logits : [N] of both."""

    history: Tensor
    user: Tensor
    item: Tensor
    logits: Tensor


class Tower(nn.Module):
    """A vector and what two layers add to it, as a unit vector."""

    def __init__(self, width: int, hidden: int, dim: int, dropout: float, salt: int) -> None:
        super().__init__()
        self.wide, self.narrow, self.drop = nn.Linear(width, hidden), nn.Linear(hidden, dim), HashedDropout(dropout, salt)

    def forward(self, own: Tensor, x: Tensor, key: Tensor) -> Tensor:
        """own [n, dim], x [n, width], key [n] -> [n, dim]."""
        return F.normalize(own + self.narrow(self.drop(F.relu(self.wide(x)), key)), dim=1)


class Taste(nn.Module):
    """The mean of the items of a history, each a vector of candidates, by weights that scene, action and age of a token give.

    It lies in the candidates' space: an item that is like those of the history is near it before anything is learned. The weights
    are exp(s) / (1 + sum exp(s)), so that few items give a short vector and none gives 0. A reconstruction, as the towers are.
    """

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.weigh = nn.Linear(len(_WHEN) * dim, 1)

    def forward(self, items: Tensor, line: Jagged, vectors: Mapping[str, Tensor]) -> Tensor:
        """items [tokens, d], where they lie on B pages, vectors by feature -> [B, d]."""
        score = line.pad(self.weigh(torch.cat([vectors[name] for name in _WHEN], 1)), float("-inf"))
        weight = F.softmax(F.pad(score, (0, 0, 1, 0)), dim=1)[:, 1:]
        return (weight * line.pad(items)).sum(1)


class SelfAttention(nn.Module):
    """Every step beside all others of its user: LN(x + attention(x, x, x))."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.attend, self.norm = MultiHead(dim, heads), nn.LayerNorm(dim)

    def forward(self, steps: Tensor, mask: Tensor) -> Tensor:
        """steps [B, M, d], mask [B, M] -> [B, M, d]."""
        return self.norm(steps + self.attend(steps, steps, mask))


class Interaction(nn.Module):
    """Logits from what an item found in a history, and the product of user and item: what is added to the cosine."""

    def __init__(self, dim: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.mlp = Mlp(2 * dim, hidden, dropout)

    def forward(self, found: Tensor, product: Tensor, key: Tensor) -> Tensor:
        """found, product [N, d], key [N] -> [N]."""
        return self.mlp(torch.cat([found, product], 1), key)


class AttentionNet(nn.Module):
    """Exact target attention: history = self-attention of the steps, found = attention of each item to it, logits of both."""

    def __init__(self, dim: int, heads: int, hidden: tuple[int, ...], dropout: float) -> None:
        super().__init__()
        self.history, self.attend = SelfAttention(dim, heads), MultiHead(dim, heads)
        self.head = Interaction(dim, hidden, dropout)

    def forward(self, read: Read, product: Tensor) -> tuple[Tensor, Tensor]:
        """[N, d] what each item found, and [N] what it adds to the logits."""
        found = self.attend(read.shown.pad(read.item), self.history(read.steps, read.mask), read.mask)
        own = read.shown.unpad(found)
        return own, self.head(own, product, read.key)


class Towers(Model):
    """Base of the pre-ranking models. Subclasses make logits from `read` and `look`.

    A page has a level of its own and a place on it one too: both are added to the logits, and neither changes the order of
    candidates that have no places yet.
    """

    reads = "pages"
    config_type = TowersConfig
    config: TowersConfig

    def __init__(self, config: TowersConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        d = config.dim
        self.token, self.visit, self.target = TokenLayer(d), VisitLayer(d), TargetLayer(d)
        self.page = nn.Linear(len(PAGE) * d, d)
        self.nothing = nn.Parameter(torch.randn(d) * 0.02)
        nn.init.zeros_(self.target.mix.bias)
        self.taste = Taste(d)
        self.history, self.ask = SelfAttention(d, config.heads), MultiHead(d, config.heads)
        self.user_tower = Tower(2 * d, config.tower, d, config.dropout, 500)
        self.item_tower = Tower(d, config.tower, d, config.dropout, 501)
        self.sharpness = nn.Parameter(torch.full((1,), _SHARPNESS))
        self.level, self.place = nn.Linear(2 * d, 1), nn.Linear(d, 1, bias=False)

    def read(self, batch: PageBatch) -> Read:
        """What a batch holds."""
        ids = batch.sparse.to_dict()
        vectors = {name: found.values() for name, found in self.tables(batch.sparse).items()}
        shown, line, stays = (Jagged(ids[name].lengths()) for name in ("candidate_item", "moveline_item", "visit_scene"))
        tokens, visits = line.pad(self.token(vectors)), stays.pad(self.visit(vectors, batch.visit_dense))
        steps, mask = with_null(self.nothing, torch.cat([tokens, visits], 1), torch.cat([line.mask, stays.mask], 1))
        item, category = vectors["candidate_item"], vectors["candidate_category"]
        taste = self.taste(self.candidates(vectors["moveline_item"], vectors["moveline_category"]), line, vectors)
        return Read(shown, torch.cat([item, category], 1), self.candidates(item, category), vectors["candidate_position"],
                    self.page(torch.cat([vectors[name] for name in PAGE], 1)), steps, mask, taste, batch.row,
                    batch.row.index_select(0, shown.page) * 100_003 + shown.place)

    def look(self, read: Read) -> Seen:
        """Both towers and their logits."""
        history = self.history(read.steps, read.mask)
        asked = torch.cat([read.context, self.ask(read.context[:, None], history, read.mask)[:, 0]], 1)
        user, item = self.user_tower(read.taste, asked, read.row), self.item_tower(read.item, read.item, read.key)
        own = self.sharpness * (user.index_select(0, read.shown.page) * item).sum(1)
        level = self.level(asked).squeeze(1).index_select(0, read.shown.page) + self.place(read.place).squeeze(1)
        return Seen(history, user, item, own + level)

    def candidates(self, item: Tensor, category: Tensor) -> Tensor:
        """[n, d] vectors of mean square 1 of items, from the rows of their ids and categories.

        Rows of tables are small. Unscaled, or beside a bias, items would hardly differ for a tower, nor for an attention.
        """
        return scaled(self.target(item, category))

    def items(self, item: Tensor, category: Tensor) -> Tensor:
        """[n, d] unit vectors of items by index [n], as the item tower gives them in evaluation mode."""
        own = self.candidates(*self.found(item, category))
        return self.item_tower(own, own, item)

    def found(self, item: Tensor, category: Tensor) -> tuple[Tensor, Tensor]:
        """[n, d] rows of items and categories by index [n]."""
        one = torch.ones_like(item, dtype=torch.int32)
        given = {"candidate_item": JaggedTensor(item, lengths=one), "candidate_category": JaggedTensor(category, lengths=one)}
        found = self.tables(completed(given, FEATURES, len(item)))
        return found["candidate_item"].values(), found["candidate_category"].values()

    @staticmethod
    def targets(batch: PageBatch) -> tuple[Tensor, Tensor]:
        """Clicks and their weights."""
        return batch.clicked, batch.weight


def scaled(vectors: Tensor) -> Tensor:
    """[n, width] rows of mean square 1."""
    return F.rms_norm(vectors, vectors.shape[1:])


def product(read: Read, seen: Seen) -> Tensor:
    """[N, d] of the two towers' vectors."""
    return seen.user.index_select(0, read.shown.page) * seen.item


class TwoTower(Towers):
    """Logits [N] of the shown items of a PageBatch: the cosine of user and item."""

    name = "two_tower"

    def forward(self, batch: PageBatch) -> Tensor:
        """One logit a shown item, in the batch's order."""
        return self.look(self.read(batch)).logits

    @staticmethod
    def terms(logits: Tensor, batch: PageBatch) -> Terms:
        """Weighted binary cross-entropy of clicks."""
        return page_terms(logits, batch)


class AttentionConfig(TowersConfig):
    """Settings of `target_attention`."""

    hidden: tuple[int, ...] = Field((32,), min_length=1, description="widths of the layers of the head")


class TargetAttentionNet(TwoTower):
    """Logits [N]: those of two_tower, and of what each item finds in the history by exact multi-head attention."""

    name = "target_attention"
    config_type = AttentionConfig
    config: AttentionConfig

    def __init__(self, config: AttentionConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        self.exact = AttentionNet(config.dim, config.heads, config.hidden, config.dropout)

    def forward(self, batch: PageBatch) -> Tensor:
        """One logit a shown item, in the batch's order."""
        read = self.read(batch)
        seen = self.look(read)
        return seen.logits + self.exact(read, product(read, seen))[1]
