"""What a model sees: a batch of whole pages, pairs or flows as TorchRec jagged tensors. Loads torch, never Spark or petastorm."""

from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from feature_store import encoding, vocabulary

# Embedding table -> features that look it up. One table is shared by history, candidate, trigger and visit features.
TABLES: dict[str, tuple[str, ...]] = {
    "item": ("moveline_item", "candidate_item", "trigger_item"),
    "category": ("moveline_category", "candidate_category", "trigger_category", "visit_category"),
    "scene": ("moveline_scene", "visit_scene", "scene"),
    "action": ("moveline_action",),
    "scenario": ("scenario",),
    "age": ("moveline_age", "visit_age"),
    "position": ("candidate_position",),
    "hour": ("hour",),
}
# The tables of a generator; it shares the history features, and looks its targets up in the same tables as its inputs.
FLOW_TABLES: dict[str, tuple[str, ...]] = {
    "item": ("moveline_item", "future_item", "negative_item"),
    "category": ("moveline_category", "visit_category", "future_category", "negative_category"),
    "scene": ("moveline_scene", "visit_scene", "future_scene"),
    "action": ("moveline_action", "future_action"),
    "age": ("moveline_age", "visit_age"),
}
PAIR_TABLES: dict[str, tuple[str, ...]] = {"item": ("left", "right"), "category": ("left_category", "right_category")}
VOCABULARY_FIELDS = vocabulary.FIELDS
"""Tables whose rows are vocabulary indexes; the others are buckets of fixed size."""

BUCKET_ROWS = encoding.BUCKET_ROWS
"""Rows of the tables that are not vocabularies: log2 half-steps of seconds before the cut, place on the page, hour of day."""

FEATURES: tuple[str, ...] = tuple(feature for table in TABLES.values() for feature in table)
PAIR_FEATURES: tuple[str, ...] = tuple(feature for table in PAIR_TABLES.values() for feature in table)
FLOW_FEATURES: tuple[str, ...] = tuple(feature for table in FLOW_TABLES.values() for feature in table)
CANDIDATE_DENSE = encoding.SHOWN_DENSE
"""Dense columns a shown item: price against its page (z-score of the logarithm), whether it is known, whether the item is in
the moveline."""

VISIT_DENSE = encoding.VISIT_DENSE
"""Dense columns a visit, log1p of seconds and counts."""


@dataclass
class PageBatch:
    """Whole pages. B pages, N shown items in all, V visits in all.

    Attributes
    ----------
    sparse : KeyedJaggedTensor over `FEATURES`, stride B; values int64 indexes, lengths int32. `moveline_*` have equal lengths
        (tokens), `visit_*` (visits), `candidate_*` (shown items, by position), the rest exactly one value a page.
    candidate_dense : [N, len(CANDIDATE_DENSE)] float32. visit_dense : [V, len(VISIT_DENSE)] float32.
    clicked : [N] float32 in {0, 1}. weight : [N] float32, 1 for viewed items, 0 for items that do not count.
    user : [B] int64, dense number of the page's user. row : [B] int64, row of the page in its encoded set.
    shown_time : [B] int64, unix microseconds of the cut. flow : [B, K, d] float32, what the frozen generator expects of the user
        next, by page (0 for a padding page); None for models without a generator.
    """

    sparse: KeyedJaggedTensor
    candidate_dense: Tensor
    visit_dense: Tensor
    clicked: Tensor
    weight: Tensor
    user: Tensor
    row: Tensor
    shown_time: Tensor
    flow: Tensor | None = None

    @property
    def pages(self) -> int:
        """Number of pages B."""
        return int(self.user.shape[0])

    @property
    def items(self) -> int:
        """Number of shown items N."""
        return int(self.clicked.shape[0])

    @property
    def lengths(self) -> Tensor:
        """[B] int64, shown items a page."""
        return self.sparse["candidate_item"].lengths().long()

    @property
    def page_of_item(self) -> Tensor:
        """[N] int64, the page (0..B-1) each shown item belongs to."""
        return torch.repeat_interleave(torch.arange(self.pages, device=self.clicked.device), self.lengths)

    def to(self, device: torch.device, non_blocking: bool = False) -> "PageBatch":
        """The same batch on another device."""
        return _moved(self, device, non_blocking)

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell every tensor which stream uses it (TorchRec's training pipelines ask for this)."""
        _record(self, stream)

    def pin_memory(self) -> "PageBatch":
        """The same batch in page-locked memory."""
        return _pinned(self)


@dataclass
class PairBatch:
    """Item pairs. M pairs.

    Attributes
    ----------
    sparse : KeyedJaggedTensor over `PAIR_FEATURES`, stride M, one index each: both items, and their categories (0: none known).
    kind : [M] int64, index into `contracts.PAIR_KINDS`. weight : [M] float32, inverse inclusion probability.
    page : [M] int64, dense number of the page a pair comes from.
    """

    sparse: KeyedJaggedTensor
    kind: Tensor
    weight: Tensor
    page: Tensor

    @property
    def pairs(self) -> int:
        """Number of pairs M."""
        return int(self.kind.shape[0])

    def to(self, device: torch.device, non_blocking: bool = False) -> "PairBatch":
        """The same batch on another device."""
        return _moved(self, device, non_blocking)

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell every tensor which stream uses it."""
        _record(self, stream)


@dataclass
class FlowBatch:
    """Cuts of users' walks with what came before and after. R cuts, V visits, F futures, n sampled negatives.

    Attributes
    ----------
    sparse : KeyedJaggedTensor over `FLOW_FEATURES`, stride R. `moveline_*` have equal lengths (tokens, oldest first), `visit_*`
        (visits), `future_*` (1 to K next interests, the next one first). All n values of `negative_*` belong to row 0.
    visit_dense : [V, len(VISIT_DENSE)] float32.
    future_logq : [F] float32, log of the item's share among the training futures: its probability as an in-batch negative.
    negative_logq : [n] float32, log of the probability a negative was drawn with.
    user : [R] int64, dense number of the user. row : [R] int64, row of the cut in its encoded set. Both are -1 in a padding row,
        which has one future of index 0 and weight 0.
    part : [R] int64, number of the logical shard the row is from: the global batch is the same parts for any number of ranks.
    cut_time : [R] int64, unix microseconds. weight : [R] float32, 1, or 0 for a padding row.
    """

    sparse: KeyedJaggedTensor
    visit_dense: Tensor
    future_logq: Tensor
    negative_logq: Tensor
    user: Tensor
    row: Tensor
    part: Tensor
    cut_time: Tensor
    weight: Tensor

    @property
    def cuts(self) -> int:
        """Number of cuts R."""
        return int(self.user.shape[0])

    @property
    def futures(self) -> int:
        """Number of future interests F."""
        return int(self.future_logq.shape[0])

    def to(self, device: torch.device, non_blocking: bool = False) -> "FlowBatch":
        """The same batch on another device."""
        return _moved(self, device, non_blocking)

    def record_stream(self, stream: torch.Stream) -> None:
        """Tell every tensor which stream uses it."""
        _record(self, stream)

    def pin_memory(self) -> "FlowBatch":
        """The same batch in page-locked memory."""
        return _pinned(self)


T = TypeVar("T", "PageBatch", "PairBatch", "FlowBatch")


def _moved(batch: T, device: torch.device, non_blocking: bool) -> T:
    return type(batch)(**{name: value.to(device, non_blocking=non_blocking) for name, value in _tensors(batch)})


def _pinned(batch: T) -> T:
    return type(batch)(**{name: value.pin_memory() for name, value in _tensors(batch)})


def _record(batch: PageBatch | PairBatch | FlowBatch, stream: torch.Stream) -> None:
    for _, value in _tensors(batch):
        value.record_stream(stream)


def _tensors(batch: PageBatch | PairBatch | FlowBatch) -> Iterator[tuple[str, Any]]:
    """Fields that are set, by name."""
    return ((f.name, getattr(batch, f.name)) for f in fields(batch) if getattr(batch, f.name) is not None)
