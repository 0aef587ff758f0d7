"""amen: all-domain moveline evolution network (arXiv 2411.11502); with a generator, Next Interest Flow (arXiv 2510.11317) too.

Both papers say what the parts are for and little of how they are made: scene spaces, semantic alignment, cross-stage weights and
the TSP loss are our reconstructions. History attention, match channels and the trigger are those of `models.din`, so that what
amen adds can be told from what any target attention gives. The generator is not part of the model: its flow comes with the batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor

from feature_store.batch import CANDIDATE_DENSE, VISIT_DENSE, PageBatch
from feature_store.errors import ModelError
from models.alignment import GatedAttention, SemanticAlignment, summary
from models.base import Model, ModelConfig
from models.din import PAGE, equals_trigger
from models.layers import Jagged, MatchChannels, Mlp, TargetAttention
from models.losses import Terms, combined, page_terms
from models.moveline import TargetLayer, TokenLayer, VisitLayer, Walk
from models.scene_spaces import SceneSpaces
from models.tsp import pairs_across_pages, pairs_on_a_page, tsp

_CONTEXT = ("moveline_scene", "moveline_action", "moveline_age")
_SEEN_BEFORE = CANDIDATE_DENSE.index("seen_before")


class AmenConfig(ModelConfig):
    """Settings of `amen`. With a generator, `dim` and `future` are the generator's."""

    dim: int = Field(32, ge=4, multiple_of=4, description="columns of the embedding tables, and of a generator's flow")
    attention_hidden: int = Field(8, ge=1, description="hidden units of the activation unit")
    channels: int = Field(4, ge=1, description="match channels an id")
    heads: int = Field(2, ge=1, description="of attention; narrow heads, below 16 columns, are slow on a CPU")
    visit_layers: int = Field(1, ge=1, description="of the encoder of scene visits")
    hidden: tuple[int, ...] = Field((64, 32), description="widths of the head's layers")
    dropout: float = Field(0.1, ge=0, lt=1, description="in the head")
    generator: Literal["", "nif"] = Field("", description="model whose flow is read; empty: none")
    future: int = Field(8, ge=1, description="K, the interests of the generator's flow")
    init: bool = Field(True, description="begin with the generator's tables and layers; one of folds of users never gives them")
    sam: Literal["full", "cos_gate", "none"] = Field("full", description="how a candidate gates the flow")
    sam_hidden: int = Field(8, ge=1)
    align: float = Field(0.05, ge=0, description="weight of the alignment of clicked items with the flow")
    tsp: Literal["a", "b", "control", "none"] = Field(
        "a", description="pairs of pages by their logits (a), or by what the walk adds to them (b); or pairs on one page (control)")
    tsp_weight: float = Field(0.1, ge=0)

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        return self


class Scores(NamedTuple):
    """What amen gives for N shown items.

    Attributes
    ----------
    logits : [N]. without : [N] logits as if nothing were known of the user, for TSP variant b; else empty.
    misalignment : [N] 1 - the largest cosine of the item to a step of the flow; without a generator empty.
    """

    logits: Tensor
    without: Tensor
    misalignment: Tensor


@dataclass(frozen=True)
class _Known:
    """What is known of the users of a batch, and what is asked; tensors as in PageBatch, vectors by feature."""

    ids: Mapping[str, JaggedTensor]
    vectors: Mapping[str, Tensor]
    visit_dense: Tensor
    candidate_dense: Tensor
    flow: Tensor | None
    row: Tensor

    def forgotten(self) -> "_Known":
        """The same pages with nothing of the walk: no token, no visit, no flow."""
        none = torch.zeros_like(self.row, dtype=torch.int32)
        gone = [name for name in self.ids if name.startswith(("moveline_", "visit_"))]
        dense = self.candidate_dense.clone()
        dense[:, _SEEN_BEFORE] = 0.0
        return replace(self, ids={**self.ids, **{name: JaggedTensor(self.ids[name].values()[:0], lengths=none) for name in gone}},
                       vectors={**self.vectors, **{name: self.vectors[name][:0] for name in gone}}, candidate_dense=dense,
                       visit_dense=self.visit_dense[:0], flow=None if self.flow is None else torch.zeros_like(self.flow))


class Amen(Model):
    """Scores of the shown items of a PageBatch."""

    name = "amen"
    reads = "pages"
    config_type = AmenConfig
    keeps_users = True

    config: AmenConfig

    def __init__(self, config: AmenConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        d, c = config.dim, config.channels
        self.token, self.visit, self.target = TokenLayer(d), VisitLayer(d), TargetLayer(d)
        self.visits = Walk(d, config.visit_layers, config.heads, 0.0, 200)
        self.page = nn.Linear(len(PAGE) * d, d)
        self.attend = TargetAttention(d, config.attention_hidden)
        self.match_item, self.match_category = MatchChannels(3 * d, c), MatchChannels(3 * d, c)
        self.match_visit = MatchChannels(2 * d + len(VISIT_DENSE), c)
        self.spaces = SceneSpaces(d, config.heads)
        width, dense = 7 * d + 3, 3 * c + len(CANDIDATE_DENSE) + 2
        if config.generator:
            self.alignment = SemanticAlignment(d, config.sam, config.sam_hidden)
            self.ahead = GatedAttention(d, config.heads)
            width, dense = width + 2 * d + config.future, dense + 2
        self.head = Mlp(width + 2 * dense, config.hidden, config.dropout)

    def forward(self, batch: PageBatch) -> Scores:
        """Scores in the batch's order.

        Raises
        ------
        ModelError : the batch lacks the generator's flow, or it has another shape.
        """
        vectors = {name: found.values() for name, found in self.tables(batch.sparse).items()}
        known = _Known(batch.sparse.to_dict(), vectors, batch.visit_dense, batch.candidate_dense, self._flow(batch), batch.row)
        logits, misalignment = self._scores(known)
        without = self._scores(known.forgotten())[0] if self.config.tsp == "b" else logits.new_zeros(0)
        return Scores(logits, without, misalignment)

    def terms(self, output: Scores, batch: PageBatch) -> Terms:
        """Binary cross-entropy of clicks, TSP, and the misalignment of clicked items."""
        config, clicks = self.config, page_terms(output.logits, batch)
        parts = [(1.0, (clicks.sums[0], clicks.weights[0]))]
        if config.tsp != "none" and config.tsp_weight:
            score = output.logits - output.without if config.tsp == "b" else output.logits
            pairs = pairs_on_a_page(batch) if config.tsp == "control" else pairs_across_pages(batch)
            parts.append((config.tsp_weight, tsp(score, pairs)))
        if config.generator and config.sam != "none" and config.align:
            weight = batch.weight * batch.clicked
            parts.append((config.align, ((output.misalignment * weight).sum(), weight.sum())))
        return combined(*parts)

    def validation_terms(self, output: Scores, batch: PageBatch) -> Terms:
        """Binary cross-entropy of clicks alone, so that epochs are picked by one rule whatever helps in training."""
        return page_terms(output.logits, batch)

    @staticmethod
    def logits(output: Scores) -> Tensor:
        """[N]."""
        return output.logits

    @staticmethod
    def targets(batch: PageBatch) -> tuple[Tensor, Tensor]:
        """Clicks and their weights."""
        return batch.clicked, batch.weight

    def _flow(self, batch: PageBatch) -> Tensor | None:
        if not self.config.generator:
            return None
        wanted = (batch.pages, self.config.future, self.config.dim)
        if batch.flow is None or batch.flow.shape != wanted:
            found = "no flow" if batch.flow is None else f"a flow of {batch.flow.shape[1]} steps of {batch.flow.shape[2]}"
            raise ModelError(f"model amen: the pages come with {found}; a generator of {wanted[1]} steps of {wanted[2]} is needed "
                             "(settings future and dim are the generator's; generator: \"\" reads none)")
        return batch.flow.detach()

    def _scores(self, known: _Known) -> tuple[Tensor, Tensor]:
        """Logits [N], and the misalignment [N] (empty without a flow)."""
        ids, vectors = known.ids, known.vectors
        shown, line, stays = (Jagged(ids[name].lengths()) for name in ("candidate_item", "moveline_item", "visit_scene"))
        query = self.target(vectors["candidate_item"], vectors["candidate_category"])
        asked = shown.pad(query)
        context = self.page(torch.cat([vectors[name] for name in PAGE], 1))
        page = context.index_select(0, shown.page)
        tokens = line.pad(self.token(vectors))
        history = shown.unpad(torch.bmm(self.attend(asked, tokens, line.mask), tokens))
        scene = shown.unpad(self._scene(known, shown, line, stays, asked, tokens, context))
        ahead, far, near, misalignment = self._ahead(known, shown, asked, context)
        same = [equals_trigger(ids, field, shown) for field in ("item", "category")]
        dense = torch.cat([shown.unpad(self._matches(known, shown, line, stays)), known.candidate_dense, *same, *near], 1)
        products = torch.stack([(query * other).sum(1) for other in (history, scene, page)], 1)
        features = torch.cat([query, vectors["candidate_position"], page, history, scene, query * history, query * scene, products,
                              *(x for part in ahead for x in (part, query * part)), *far, dense, dense - shown.page_mean(dense)], 1)
        return self.head(features, known.row.index_select(0, shown.page) * 100_003 + shown.place), misalignment

    def _scene(self, known: _Known, shown: Jagged, line: Jagged, stays: Jagged, asked: Tensor, tokens: Tensor,
               context: Tensor) -> Tensor:
        """[B, L, d] what each shown item finds in the scene visits."""
        ids, vectors = known.ids, known.vectors
        visits = self.visits(self.visit(vectors, known.visit_dense), stays, known.row)
        (scene, own), (age, its) = (
            (line.pad(ids[f"moveline_{field}"].values())[:, None, :], stays.pad(ids[f"visit_{field}"].values())[:, :, None])
            for field in ("scene", "age"))
        touched = (line.pad(ids["moveline_item"].values()) > 0)[:, None, :] & line.mask[:, None, :]
        items = self.spaces.pool(visits, stays.pad(vectors["visit_scene"]), tokens, (scene == own) & touched, (age - its).abs())
        place = torch.cat([vectors["scene"], context], 1).index_select(0, shown.page)
        wanted = shown.pad(torch.cat([vectors["candidate_category"], place], 1))
        return self.spaces(asked, wanted, visits, stays.mask, items)

    def _matches(self, known: _Known, shown: Jagged, line: Jagged, stays: Jagged) -> Tensor:
        """[B, L, 3 * channels] how often a candidate's item and category occur in the moveline, and its category in the visits."""
        ids, vectors = known.ids, known.vectors
        context = line.pad(torch.cat([vectors[name] for name in _CONTEXT], 1))
        visit = stays.pad(torch.cat([vectors["visit_scene"], vectors["visit_age"], known.visit_dense], 1))
        item, category = (shown.pad(ids[f"candidate_{field}"].values()) for field in ("item", "category"))
        return torch.cat([self.match_item(item, line.pad(ids["moveline_item"].values()), context),
                          self.match_category(category, line.pad(ids["moveline_category"].values()), context),
                          self.match_visit(category, stays.pad(ids["visit_category"].values()), visit)], 2)

    def _ahead(self, known: _Known, shown: Jagged, asked: Tensor,
               context: Tensor) -> tuple[list[Tensor], list[Tensor], list[Tensor], Tensor]:
        """What each shown item finds in the flow: [N, d] attended, [N, K] which step is nearest, [N, 2] how near; the misalignment.

        Lists are empty without a flow. The cosines are those of the aligned steps: a gate is positive and scales them away.
        """
        if known.flow is None:
            return [], [], [], asked.new_zeros(0)
        steps, gate, cosine, misalignment = self.alignment(known.flow, asked, context)
        near, place = summary(cosine)
        given = known.flow.abs().sum((1, 2)) > 0
        place = place * given[:, None, None]
        return ([shown.unpad(self.ahead(asked, steps, gate))], [shown.unpad(place)], [shown.unpad(near)], shown.unpad(misalignment))
