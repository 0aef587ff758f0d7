"""What the trigger-aware models (ccn, dihn, dei2n) read of a page alike: they differ in what they do with the trigger alone.

History attention and match channels are those of `models.din`. None of them looks the scenario up: a scenario that is new then
means nothing unknown to the model. The trigger and the shown items are mapped by one layer.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from feature_store.batch import CANDIDATE_DENSE, TABLES, VISIT_DENSE, PageBatch
from models.base import Model, ModelConfig
from models.din import equals_trigger
from models.layers import Jagged, MatchChannels, Mlp, TargetAttention
from models.moveline import TargetLayer

_TOKEN = ("moveline_item", "moveline_category", "moveline_scene", "moveline_action", "moveline_age")
_CONTEXT = ("scene", "hour")


class TriggeredConfig(ModelConfig):
    """Settings of every trigger-aware model."""

    attention_hidden: int = Field(8, ge=1, description="hidden units of the activation unit")
    channels: int = Field(4, ge=1, description="match channels an id")
    hidden: tuple[int, ...] = Field((64, 32), description="widths of the head's layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the head")


@dataclass(frozen=True)
class Seen:
    """What a page holds. B pages, N shown items, T tokens of the longest moveline, d columns.

    Attributes
    ----------
    ids : jagged indexes by feature. shown, line : where the shown items and the tokens lie. item : [N, d]. asked : [B, L, d] the
        same, padded. trigger, user, context : [B, d], of the trigger, the mean of the moveline, and scene and hour.
    tokens : [B, T, d]. visits : [N, d] what each item finds in the scene visits. position : [N, d]. dense : [N, k] matches.
    key : [N] numbers that name an item wherever it is computed.
    """

    ids: Mapping[str, JaggedTensor]
    shown: Jagged
    line: Jagged
    item: Tensor
    asked: Tensor
    trigger: Tensor
    user: Tensor
    context: Tensor
    tokens: Tensor
    visits: Tensor
    position: Tensor
    dense: Tensor
    key: Tensor

    def spread(self, values: Tensor) -> Tensor:
        """[B, ...] -> [N, ...]."""
        return values.index_select(0, self.shown.page)

    def of_triggers_category(self) -> Tensor:
        """[B, T] which tokens have the trigger's category."""
        category = self.line.pad(self.ids["moveline_category"].values())
        own = self.ids["trigger_category"].values()[:, None]
        return (category == own) & (own > 0) & self.line.mask


class Triggered(Model):
    """Base of the trigger-aware models. Subclasses make vectors of the shown items from `look`, and logits of them by `score`."""

    reads = "pages"
    features: ClassVar[Mapping[str, tuple[str, ...]]] = {table: own for table, own in TABLES.items() if table != "scenario"}
    config: TriggeredConfig

    def __init__(self, config: TriggeredConfig, rows: Mapping[str, int], parts: int) -> None:
        super().__init__(config, rows)
        d, c = config.dim, config.channels
        self.target = TargetLayer(d)
        self.token = nn.Linear(len(_TOKEN) * d, d)
        self.visit = nn.Linear(3 * d + len(VISIT_DENSE), d)
        self.page = nn.Linear(len(_CONTEXT) * d, d)
        self.attend_visits = TargetAttention(d, config.attention_hidden)
        self.match_item, self.match_category = MatchChannels(3 * d, c), MatchChannels(3 * d, c)
        self.match_visit = MatchChannels(2 * d + len(VISIT_DENSE), c)
        self.head = Mlp((6 + parts) * d + 2 * (3 * c + len(CANDIDATE_DENSE) + 2) + 3, config.hidden, config.dropout)

    def look(self, batch: PageBatch) -> Seen:
        """What a batch holds."""
        ids = batch.sparse.to_dict()
        vectors = {name: found.values() for name, found in self.tables(batch.sparse).items()}
        shown, line = Jagged(ids["candidate_item"].lengths()), Jagged(ids["moveline_item"].lengths())
        item, trigger = (self.target(vectors[f"{kind}_item"], vectors[f"{kind}_category"]) for kind in ("candidate", "trigger"))
        asked = shown.pad(item)
        tokens = line.pad(torch.relu(self.token(torch.cat([vectors[name] for name in _TOKEN], 1))))
        user = tokens.sum(1) / line.mask.sum(1, keepdim=True).clamp(min=1)
        visits, matches = self._histories(batch, ids, vectors, shown, line, asked)
        same = [equals_trigger(ids, field, shown) for field in ("item", "category")]
        context = self.page(torch.cat([vectors[name] for name in _CONTEXT], 1))
        return Seen(ids, shown, line, item, asked, trigger, user, context, tokens, visits, vectors["candidate_position"],
                    torch.cat([matches, batch.candidate_dense, *same], 1),
                    batch.row.index_select(0, shown.page) * 100_003 + shown.place)

    def score(self, seen: Seen, *parts: Tensor) -> Tensor:
        """[N] logits; parts : [N, d] each, what the model itself made of the shown items."""
        context, trigger = seen.spread(seen.context), seen.spread(seen.trigger)
        products = torch.stack([(seen.item * other).sum(1) for other in (seen.visits, context, trigger)], 1)
        features = torch.cat([seen.item, seen.position, context, trigger, seen.visits, seen.item * context, *parts, products,
                              seen.dense, seen.dense - seen.shown.page_mean(seen.dense)], 1)
        return self.head(features, seen.key)

    def _histories(self, batch: PageBatch, ids: Mapping[str, JaggedTensor], vectors: Mapping[str, Tensor], shown: Jagged,
                   line: Jagged, asked: Tensor) -> tuple[Tensor, Tensor]:
        """[N, d] what each shown item finds in the visits, [N, 3 * channels] how often its ids occur in tokens and visits."""
        stays = Jagged(ids["visit_scene"].lengths())
        visit = torch.cat([vectors["visit_scene"], vectors["visit_age"], batch.visit_dense], 1)
        keys = stays.pad(torch.relu(self.visit(torch.cat([vectors["visit_category"], visit], 1))))
        found = torch.bmm(self.attend_visits(asked, keys, stays.mask), keys)
        token = line.pad(torch.cat([vectors[name] for name in _TOKEN[2:]], 1))
        item, category = (shown.pad(ids[f"candidate_{field}"].values()) for field in ("item", "category"))
        matches = torch.cat([self.match_item(item, line.pad(ids["moveline_item"].values()), token),
                             self.match_category(category, line.pad(ids["moveline_category"].values()), token),
                             self.match_visit(category, stays.pad(ids["visit_category"].values()), stays.pad(visit))], 2)
        return shown.unpad(found), shown.unpad(matches)

    @staticmethod
    def targets(batch: PageBatch) -> tuple[Tensor, Tensor]:
        """Clicks and their weights."""
        return batch.clicked, batch.weight
