"""nif: the generator of Next Interest Flow (arXiv 2510.11317), from a user's walk to the next K interests as unit vectors.

The abstract of the paper says what it does; the architecture below is our reconstruction. Tokens and scene visits are two causal
encoders, and the decoder attends to both as one memory: merging them into one sequence would need a sort by times that a batch
knows only as coarse ages, and the ranker (`models.amen`) takes over the encoder of the visits as it is.
"""

from collections.abc import Mapping
from typing import ClassVar, Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn
from torchrec.sparse.jagged_tensor import JaggedTensor, KeyedJaggedTensor

from feature_store.batch import FLOW_FEATURES, FLOW_TABLES, FlowBatch
from models.attention import Block, with_null
from models.base import Model, ModelConfig
from models.embeddings import completed
from models.flow_losses import (
    Negatives,
    Sum,
    Walked,
    flat_diversity,
    flat_velocity,
    info_nce,
    sphere_diversity,
    sphere_velocity,
    usual_longest_step,
    walk_nce,
)
from models.flow_metrics import effective_rank, normalised, occurs, pairwise_cosine, recalls
from models.layers import HashedDropout, Jagged
from models.losses import Terms, combined
from models.moveline import TargetLayer, TokenLayer, VisitLayer, Walk

_UNUSED = ("future_scene", "future_action")
_RECALL_AT = (50, 200)
_USUAL_SHARE = 0.9
"""The sphere form lets a step be as long as this share of the steps between targets."""


class NifConfig(ModelConfig):
    """Settings of `nif`."""

    dim: int = Field(32, ge=4, multiple_of=4, description="columns of the embedding tables and of the flows")
    layers: int = Field(2, ge=1, description="of the encoder of tokens")
    visit_layers: int = Field(1, ge=1, description="of the encoder of scene visits")
    decoder_layers: int = Field(1, ge=1)
    heads: int = Field(2, ge=1, description="of attention; narrow heads, below 16 columns, are slow on a CPU")
    future: int = Field(8, ge=1, description="K, the interests of a flow; futures beyond it do not count")
    rollout: bool = Field(False, description="feed each interest back for the next: K passes of the decoder in place of one")
    negatives: int = Field(1_024, ge=0, description="items drawn a step from the training futures, to tell futures apart from")
    temperature: float = Field(0.07, gt=0)
    id_dropout: float = Field(0.2, ge=0, lt=1, description="share of targets that are content alone in a step; 0 without content")
    dropout: float = Field(0.1, ge=0, lt=1)
    form: Literal["flat", "sphere"] = Field("flat", description="reading of the regularisers: v1 or v2 of the paper")
    diversity: float = Field(0.1, ge=0, description="weight of interest diversity")
    diversity_margin: float = Field(0.5, ge=-1, le=1, description="flat form: cosine of two steps that costs nothing")
    velocity: float = Field(0.1, ge=0, description="weight of evolution velocity")
    velocity_mode: Literal["matched", "plain"] = Field("matched", description="flat form: like the targets' change, or small")
    history: int = Field(8, ge=0, description="last tokens of a walk whose items are foreseen too, each from the tokens before it")
    begin: Literal["walks", "random"] = Field("walks", description="item vectors to begin with: of items near each other in walks")
    repeats: bool = Field(False, description="learn, as a cosine, how much likelier an item of the walk is than its vector says")

    @model_validator(mode="after")
    def _fitting(self) -> Self:
        if self.dim % self.heads:
            raise ValueError(f"dim {self.dim} is no multiple of heads {self.heads}")
        if self.form == "sphere" and self.velocity_mode != "matched":
            raise ValueError("velocity_mode is of the flat form; leave it out with form: sphere")
        return self


class Flows(NamedTuple):
    """What a generator gives for R cuts, F futures and n sampled negatives.

    Attributes
    ----------
    flow : [R, K, d] unit vectors. target, negative : [F, d], [n, d] unit vectors of items. base : [R, d] unit vector of the present
        interest, where the sphere's tangents are taken; the first step of the flow in the flat form, which does not use it.
    seen : [M, d] unit vectors, what is expected at some tokens. walk : [N, d] unit vectors of the items of all tokens.
    """

    flow: Tensor
    target: Tensor
    negative: Tensor
    base: Tensor
    seen: Tensor
    walk: Tensor


class Nif(Model):
    """Flows of the cuts of a FlowBatch; `flow` gives those of pages, `items` the vectors they are compared with."""

    name = "nif"
    reads = "flows"
    config_type = NifConfig
    features: ClassVar[Mapping[str, tuple[str, ...]]] = {
        table: tuple(f for f in names if f not in _UNUSED) for table, names in FLOW_TABLES.items()}

    config: NifConfig

    def __init__(self, config: NifConfig, rows: Mapping[str, int]) -> None:
        super().__init__(config, rows)
        d = config.dim
        self.token, self.visit, self.target = TokenLayer(d), VisitLayer(d), TargetLayer(d)
        self.tokens = Walk(d, config.layers, config.heads, config.dropout, 100)
        self.visits = Walk(d, config.visit_layers, config.heads, config.dropout, 200)
        self.nothing = nn.Parameter(torch.randn(d) * 0.02)
        self.steps = nn.Parameter(torch.randn(config.future, d) * 0.5)
        self.start = nn.Linear(d, d)
        self.again = nn.Linear(d, d) if config.rollout else None
        self.decoder = nn.ModuleList(
            Block(d, config.heads, config.dropout, 300 + 3 * n, crossed=True) for n in range(config.decoder_layers))
        self.last_norm, self.out = nn.LayerNorm(d), nn.Linear(d, d)
        self.base = nn.Linear(d, d) if config.form == "sphere" and config.diversity > 0 else None
        self.keep_id = HashedDropout(config.id_dropout, 400)
        self.repeat = nn.Parameter(torch.zeros(())) if config.repeats else None

    def forward(self, batch: FlowBatch) -> Flows:
        """Flows depend on `moveline_*` and `visit_*` alone; targets and negatives are looked up for the loss."""
        ids = batch.sparse.to_dict()
        vectors = {name: found.values() for name, found in self.tables(batch.sparse).items()}
        flow, last, tokens = self._ahead(ids, vectors, batch.visit_dense, batch.row)
        target, negative = self._wanted(vectors, ids, "future", self._futures(batch)[0]), self._wanted(vectors, ids, "negative")
        before, _ = self._foreseen(ids["moveline_item"])
        # The decoder's first step without its blocks: one token has no memory of its own.
        seen = normalised(self.out(self.last_norm(self.steps[0] + self.start(tokens.flatten(0, 1).index_select(0, before)))))
        walk = self._wanted(vectors, ids, "moveline")
        return Flows(flow, target, negative, flow[:, 0] if self.base is None else normalised(self.base(last)), seen, walk)

    def flow(self, sparse: KeyedJaggedTensor, visit_dense: Tensor) -> Tensor:
        """[B, K, d] flows of pages (or cuts), in evaluation mode the same whatever else is in the batch.

        Parameters
        ----------
        sparse : with the features `moveline_*` and `visit_*`; others are ignored. visit_dense : as in the batch.
        """
        ids = sparse.to_dict()
        known = {name: ids[name] for names in self.features.values() for name in names if name.startswith(("moveline_", "visit_"))}
        vectors = {name: found.values() for name, found in self.tables(completed(known, FLOW_FEATURES, sparse.stride())).items()}
        row = torch.arange(sparse.stride(), device=visit_dense.device)
        return self._ahead(ids, vectors, visit_dense, row)[0]

    def items(self, item: Tensor, category: Tensor) -> Tensor:
        """[n, d] unit vectors of items, as targets. item, category : [n] indexes.

        As a retriever, an item's score is its largest cosine to any of the K steps (`models.flow_metrics.best_cosine`), and its
        `lift`: it is recommended when it is expected at all, however soon.
        """
        one = torch.ones_like(item, dtype=torch.int32)
        given = {"future_item": JaggedTensor(item, lengths=one), "future_category": JaggedTensor(category, lengths=one)}
        found = self.tables(completed(given, FLOW_FEATURES, len(item)))
        return normalised(self.target(found["future_item"].values(), found["future_category"].values()))

    def lift(self, walk: Tensor, item: Tensor) -> Tensor | float:
        """[R, n] what items [n] gain in cosine where they stand in a walk, indexes [R, T]; 0 without `repeats`.

        A flow that begins as the last item lies near what the user has seen, whether or not such items ever come again. One
        number, learned by the same loss, says how often they do.
        """
        return 0.0 if self.repeat is None else occurs(walk, item) * self.repeat

    def lifts(self, batch: FlowBatch, steps: Jagged, item: Tensor, other: Tensor) -> tuple[Tensor | float, Tensor | float]:
        """What futures, [F] items that lie as `steps` says, and other items [n] gain beside each of them: [F] and [F, n]."""
        if self.repeat is None:
            return 0.0, 0.0
        walk = self.line(batch)
        own = (walk.index_select(0, steps.page) == item[:, None]).any(1)
        return own * self.repeat, (occurs(walk, other) * self.repeat).index_select(0, steps.page)

    @staticmethod
    def line(batch: FlowBatch) -> Tensor:
        """[R, T] index of the item of every token of the walks, 0 where there is none."""
        item = batch.sparse["moveline_item"]
        return Jagged(item.lengths()).pad(item.values())

    def terms(self, output: Flows, batch: FlowBatch) -> Terms:
        """InfoNCE, diversity and velocity."""
        config, steps, others = self.config, self._futures(batch)[1], self._negatives(output, batch)
        parts = [(1.0, self._contrast(output, batch, others))]
        if config.diversity:
            spread = (sphere_diversity(output.base, output.flow, batch.weight) if config.form == "sphere"
                      else flat_diversity(output.flow, batch.weight, config.diversity_margin))
            parts.append((config.diversity, spread))
        if config.velocity and config.form == "sphere":
            longest = usual_longest_step(output.target, steps, batch.part, batch.weight, _USUAL_SHARE)
            parts.append((config.velocity, sphere_velocity(output.flow, longest, batch.weight)))
        elif config.velocity:
            matched = config.velocity_mode == "matched"
            parts.append((config.velocity, flat_velocity(output.flow, output.target, steps, batch.weight, matched)))
        if config.history:
            parts.append((1.0, self._history(output, batch, others)))
        return combined(*parts)

    def validation_terms(self, output: Flows, batch: FlowBatch) -> Terms:
        """InfoNCE alone."""
        return combined((1.0, self._contrast(output, batch, self._negatives(output, batch))))

    @staticmethod
    def logits(output: Flows) -> Tensor:
        """None."""
        return output.flow.new_zeros(0)

    def measures(self, output: Flows, batch: FlowBatch) -> dict[str, Sum]:
        """Recall of futures among the sampled negatives of the batch, and the monitors of collapse."""
        kept, steps = self._futures(batch)
        item = batch.sparse["future_item"].values().index_select(0, kept)
        weight, one = batch.weight.index_select(0, steps.page), batch.weight.new_ones(())
        other = batch.sparse["negative_item"].values()
        lifts = self.lifts(batch, steps, item, other)
        found = recalls(output.flow, output.target, item, steps, output.negative, other, _RECALL_AT, lifts)
        return {
            **{f"recall_{at}": ((own * weight).sum(), weight.sum()) for at, own in zip(_RECALL_AT, found, strict=True)},
            "pairwise_cosine": ((pairwise_cosine(output.flow) * batch.weight).sum(), batch.weight.sum()),
            "effective_rank": (effective_rank(output.flow.flatten(0, 1)).to(one.dtype), one),
        }

    def _foreseen(self, item: JaggedTensor) -> tuple[Tensor, Tensor]:
        """Tokens to be foreseen, which have another item than the one before them: places in [B * T] of that one, and of them."""
        line, index = Jagged(item.lengths()), item.values()
        late = line.place >= (line.mask.sum(1) - self.config.history).index_select(0, line.page)
        found = line.flat[late & (line.place > 0) & (index > 0) & (index != index.roll(1))]
        return found - 1, found

    def _futures(self, batch: FlowBatch) -> tuple[Tensor, Jagged]:
        """Which values of `future_*` count, the first K of a cut, and where they then lie."""
        lengths = batch.sparse["future_item"].lengths()
        kept = Jagged(lengths).place < self.config.future
        return kept.nonzero().squeeze(1), Jagged(lengths.clamp(max=self.config.future))

    def _wanted(self, vectors: Mapping[str, Tensor], ids: Mapping[str, JaggedTensor], kind: str,
                at: Tensor | None = None) -> Tensor:
        """Unit vectors, as targets, of the values of `<kind>_item` (those `at` some places).

        In training, items (by index and step) whose id is dropped are content alone; one without content keeps its id.
        """
        names = (f"{kind}_item", f"{kind}_category")
        found = [*(vectors[name] for name in names), *(ids[name].values() for name in names)]
        item, category, index, content = found if at is None else (own.index_select(0, at) for own in found)
        kept = self.keep_id(torch.ones_like(item[:, :1]), index).sign()
        return normalised(self.target(torch.where((content == 0)[:, None], item, item * kept), category))

    def _negatives(self, output: Flows, batch: FlowBatch) -> Negatives:
        kept, _ = self._futures(batch)
        ids = batch.sparse.to_dict()
        line = Jagged(ids["moveline_item"].lengths())
        walked = Walked(line.pad(ids["moveline_item"].values()), line.pad(output.walk), 0.0 if self.repeat is None else self.repeat)
        return Negatives(ids["future_item"].values().index_select(0, kept), batch.future_logq.index_select(0, kept), batch.user,
                         batch.part, output.negative, ids["negative_item"].values(), batch.negative_logq, walked)

    def _contrast(self, output: Flows, batch: FlowBatch, others: Negatives) -> Sum:
        return info_nce(output.flow, output.target, self._futures(batch)[1], batch.weight, others, self.config.temperature)

    def _history(self, output: Flows, batch: FlowBatch, others: Negatives) -> Sum:
        item = batch.sparse["moveline_item"]
        before, token = self._foreseen(item)
        weight = batch.weight.index_select(0, token // Jagged(item.lengths()).longest)
        return walk_nce(output.seen, token, before, weight, others, self.config.temperature)

    def _ahead(self, ids: Mapping[str, JaggedTensor], vectors: Mapping[str, Tensor], visit_dense: Tensor,
               row: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The flows [R, K, d] of some walks, the state [R, d] after their last token, and those [R, T, d] after each."""
        line, stays = (Jagged(ids[name].lengths()) for name in ("moveline_item", "visit_scene"))
        tokens = self.tokens(self.token(vectors), line, row)
        visits = self.visits(self.visit(vectors, visit_dense), stays, row)
        memory, mask = with_null(self.nothing, torch.cat([tokens, visits], 1), torch.cat([line.mask, stays.mask], 1))
        # Place 0 of the memory is the null key: what a walk without tokens has last.
        last = memory[torch.arange(line.pages, device=row.device), line.mask.sum(1)]
        key = row[:, None] * 4_099 + 3_000 + torch.arange(self.config.future, device=row.device)
        queries = self.steps + self.start(last)[:, None]
        if self.again is None:
            return self._decoded(queries, key, memory, mask), last, tokens
        flow = self._decoded(queries[:, :1], key[:, :1], memory, mask)
        for k in range(1, self.config.future):
            fed = torch.cat([queries[:, :1], queries[:, 1: k + 1] + self.again(flow)], 1)
            flow = torch.cat([flow, self._decoded(fed, key[:, : k + 1], memory, mask)[:, -1:]], 1)
        return flow, last, tokens

    def _decoded(self, x: Tensor, key: Tensor, memory: Tensor, mask: Tensor) -> Tensor:
        for block in self.decoder:
            x = block(x, key, memory, mask)
        return normalised(self.out(self.last_norm(x)))
