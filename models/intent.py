"""Two published trigger-aware rivals of ccn, both of which estimate whether the user is here for the trigger.

`dihn` follows DIHN (arXiv 2202.08959), `dei2n` follows DEI2N (arXiv 2401.07769), on what the other models read of a page. Both are
reconstructions in the style of the papers. As far as public code of them is known, three slips in it are not repeated: the gate is
a probability, it multiplies the trigger's part (not the part without it), and its auxiliary label is that of each clicked item.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor, nn

from feature_store.batch import PageBatch
from models.layers import TargetAttention
from models.losses import Terms, combined, page_terms
from models.triggered import Seen, Triggered, TriggeredConfig

_LENGTHS = 16
"""Lengths of the trigger's part of a moveline that are told apart; longer ones are alike."""


class IntentConfig(TriggeredConfig):
    """Settings of `dihn` and `dei2n`."""

    intent: float = Field(0.1, ge=0, description="weight of the auxiliary loss of the intent")


class Intended(NamedTuple):
    """Logits [N] of the shown items, and [B] the logit of the chance that a page's user is here for the trigger."""

    logits: Tensor
    intent: Tensor


class _Intent(Triggered):
    """Base of both: a chance a page, learnt from which of the clicked items have the trigger's category."""

    config_type = IntentConfig
    config: IntentConfig

    def terms(self, output: Intended, batch: PageBatch) -> Terms:
        """Binary cross-entropy of clicks, and of the intent over the clicked items of pages with a trigger."""
        clicks, page = page_terms(output.logits, batch), batch.page_of_item
        trigger = batch.sparse["trigger_category"].values().index_select(0, page)
        label = (batch.sparse["candidate_category"].values() == trigger).to(output.logits.dtype)
        counted = batch.weight * batch.clicked * (trigger > 0)
        loss = F.binary_cross_entropy_with_logits(output.intent.index_select(0, page), label, weight=counted, reduction="sum")
        return combined((1.0, (clicks.sums[0], clicks.weights[0])), (self.config.intent, (loss, counted.sum())))

    def validation_terms(self, output: Intended, batch: PageBatch) -> Terms:
        """Binary cross-entropy of clicks alone."""
        return page_terms(output.logits, batch)

    @staticmethod
    def logits(output: Intended) -> Tensor:
        """[N]."""
        return output.logits


class Dihn(_Intent):
    """User intent network, fused item e = p trigger + (1 - p) item, and hybrid interest: soft over all tokens, hard over those of
    the trigger's category."""

    name = "dihn"

    def __init__(self, config: IntentConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows, parts=4)
        d = config.dim
        self.intent = nn.Sequential(nn.Linear(3 * d, d), nn.ReLU(), nn.Linear(d, 1))
        self.soft, self.hard = (TargetAttention(d, config.attention_hidden) for _ in range(2))

    def forward(self, batch: PageBatch) -> Intended:
        """Logits in the batch's order."""
        seen = self.look(batch)
        intent = self.intent(torch.cat([seen.user, seen.trigger, seen.user * seen.trigger], 1))
        share = torch.sigmoid(intent)[:, :, None]
        fused = share * seen.trigger[:, None] + (1 - share) * seen.asked
        found = [seen.shown.unpad(torch.bmm(attend(fused, seen.tokens, mask), seen.tokens))
                 for attend, mask in ((self.soft, seen.line.mask), (self.hard, seen.of_triggers_category()))]
        own = seen.shown.unpad(fused)
        return Intended(self.score(seen, own, *found, own * found[0]), intent.squeeze(1))


class Dei2n(_Intent):
    """Intent from the trigger's own tokens and their number, history weights p trigger's + (1 - p) item's, and the interaction of
    trigger and item."""

    name = "dei2n"

    def __init__(self, config: IntentConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows, parts=5)
        d = config.dim
        self.length = nn.Embedding(_LENGTHS, d)
        self.intent = nn.Sequential(nn.Linear(5 * d, d), nn.ReLU(), nn.Linear(d, 1))
        self.of_item, self.of_trigger = (TargetAttention(d, config.attention_hidden) for _ in range(2))

    def forward(self, batch: PageBatch) -> Intended:
        """Logits in the batch's order."""
        seen = self.look(batch)
        hard, intent = self._intent(seen)
        share = torch.sigmoid(intent)[:, :, None]
        of_trigger = self.of_trigger(seen.trigger[:, None], seen.tokens, seen.line.mask)
        weights = share * of_trigger + (1 - share) * self.of_item(seen.asked, seen.tokens, seen.line.mask)
        history, trigger = seen.shown.unpad(torch.bmm(weights, seen.tokens)), seen.spread(seen.trigger)
        return Intended(self.score(seen, history, seen.item * history, seen.spread(hard), trigger - seen.item,
                                   trigger * seen.item), intent.squeeze(1))

    def _intent(self, seen: Seen) -> tuple[Tensor, Tensor]:
        """[B, d] mean of the trigger's own tokens, [B, 1] logit of the intent."""
        own = seen.of_triggers_category()
        count = own.sum(1)
        hard = (seen.tokens * own[:, :, None]).sum(1) / count.clamp(min=1)[:, None]
        known = self.length(count.clamp(max=_LENGTHS - 1))
        return hard, self.intent(torch.cat([seen.user, hard, seen.trigger, seen.trigger * hard, known], 1))
