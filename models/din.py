"""DIN: target attention of every shown item over the user's moveline and scene visits (arXiv 1706.06978).

On top of the paper: scene visits beside the tokens, the trigger item, and match channels (how often, how lately and by which
action the very item or its category occurs in the history), each also relative to the mean of its page.
"""

from collections.abc import Mapping
from typing import cast

import torch
from pydantic import Field
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from feature_store.batch import CANDIDATE_DENSE, VISIT_DENSE, PageBatch
from models.base import Model, ModelConfig
from models.layers import Jagged, MatchChannels, Mlp, TargetAttention
from models.losses import Terms, page_terms

_TOKEN = ("moveline_item", "moveline_category", "moveline_scene", "moveline_action", "moveline_age")
PAGE = ("scene", "scenario", "hour", "trigger_item", "trigger_category")


class DinConfig(ModelConfig):
    """Settings of `din`."""

    attention_hidden: int = Field(8, ge=1, description="hidden units of the activation unit")
    channels: int = Field(4, ge=1, description="match channels an id")
    hidden: tuple[int, ...] = Field((64, 32), description="widths of the head's layers")
    dropout: float = Field(0.1, ge=0, lt=1)


class Din(Model):
    """Logits [N] of the shown items of a PageBatch."""

    name = "din"
    reads = "pages"
    config_type = DinConfig

    def __init__(self, config: DinConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        d, c = config.dim, config.channels
        self.token = nn.Linear(len(_TOKEN) * d, d)
        self.visit = nn.Linear(3 * d + len(VISIT_DENSE), d)
        self.candidate = nn.Linear(2 * d, d)
        self.page = nn.Linear(len(PAGE) * d, d)
        self.attend_tokens = TargetAttention(d, config.attention_hidden)
        self.attend_visits = TargetAttention(d, config.attention_hidden)
        self.match_item = MatchChannels(3 * d, c)
        self.match_category = MatchChannels(3 * d, c)
        self.match_visit = MatchChannels(2 * d + len(VISIT_DENSE), c)
        dense = 3 * c + len(CANDIDATE_DENSE) + 2
        self.head = Mlp(7 * d + 2 * dense + 3, config.hidden, config.dropout)

    def forward(self, batch: PageBatch) -> Tensor:
        """One logit a shown item, in the batch's order."""
        ids = batch.sparse.to_dict()
        vectors = {name: jagged.values() for name, jagged in self.tables(batch.sparse).items()}
        shown = Jagged(ids["candidate_item"].lengths())
        query = self.candidate(torch.cat([vectors["candidate_item"], vectors["candidate_category"]], 1))
        padded = shown.pad(query)
        tokens, token_match = self._tokens(ids, vectors, shown, padded)
        visits, visit_match = self._visits(batch, ids, vectors, shown, padded)
        page = self.page(torch.cat([vectors[name] for name in PAGE], 1)).index_select(0, shown.page)
        same = [equals_trigger(ids, field, shown) for field in ("item", "category")]
        dense = torch.cat([token_match, visit_match, batch.candidate_dense, *same], 1)
        summary = torch.stack([(query * other).sum(1) for other in (tokens, visits, page)], 1)
        features = torch.cat([query, vectors["candidate_position"], page, tokens, visits, query * tokens, query * page,
                              dense, dense - shown.page_mean(dense), summary], 1)
        return self.head(features, batch.row.index_select(0, shown.page) * 100_003 + shown.place)

    def _tokens(self, ids: dict[str, JaggedTensor], vectors: dict[str, Tensor], shown: Jagged,
                query: Tensor) -> tuple[Tensor, Tensor]:
        """What each shown item finds in the moveline: [N, d] attended, [N, 2 * channels] matches."""
        line = Jagged(ids["moveline_item"].lengths())
        keys = line.pad(torch.relu(self.token(torch.cat([vectors[name] for name in _TOKEN], 1))))
        attended = torch.bmm(self.attend_tokens(query, keys, line.mask), keys)
        context = line.pad(torch.cat([vectors[name] for name in _TOKEN[2:]], 1))
        matches = [match(shown.pad(ids[f"candidate_{field}"].values()), line.pad(ids[f"moveline_{field}"].values()), context)
                   for field, match in (("item", self.match_item), ("category", self.match_category))]
        return shown.unpad(attended), shown.unpad(torch.cat(matches, 2))

    def _visits(self, batch: PageBatch, ids: dict[str, JaggedTensor], vectors: dict[str, Tensor], shown: Jagged,
                query: Tensor) -> tuple[Tensor, Tensor]:
        """What each shown item finds in the scene visits: [N, d] attended, [N, channels] matches."""
        line = Jagged(ids["visit_scene"].lengths())
        context = torch.cat([vectors["visit_scene"], vectors["visit_age"], batch.visit_dense], 1)
        keys = line.pad(torch.relu(self.visit(torch.cat([vectors["visit_category"], context], 1))))
        attended = torch.bmm(self.attend_visits(query, keys, line.mask), keys)
        match = self.match_visit(shown.pad(ids["candidate_category"].values()), line.pad(ids["visit_category"].values()),
                                 line.pad(context))
        return shown.unpad(attended), shown.unpad(match)

    @staticmethod
    def terms(logits: Tensor, batch: PageBatch) -> Terms:
        """Weighted binary cross-entropy of clicks."""
        return page_terms(logits, batch)

    @staticmethod
    def targets(batch: PageBatch) -> tuple[Tensor, Tensor]:
        """Clicks and their weights."""
        return batch.clicked, batch.weight


def equals_trigger(ids: Mapping[str, JaggedTensor], field: str, shown: Jagged) -> Tensor:
    """[N, 1]: 1 where the shown item has the trigger's id."""
    trigger = ids[f"trigger_{field}"].values().index_select(0, shown.page)
    return cast(Tensor, (trigger == ids[f"candidate_{field}"].values()) & (trigger > 0)).float()[:, None]
