"""What a model sees: a batch of whole pages (or of pairs) as TorchRec jagged tensors. Loads torch, never Spark or petastorm."""

from dataclasses import dataclass, fields
from typing import TypeVar

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
VOCABULARY_FIELDS = vocabulary.FIELDS
"""Tables whose rows are vocabulary indexes; the others are buckets of fixed size."""

BUCKET_ROWS = encoding.BUCKET_ROWS
"""Rows of the tables that are not vocabularies: log2 half-steps of seconds before the cut, place on the page, hour of day."""

FEATURES: tuple[str, ...] = tuple(feature for table in TABLES.values() for feature in table)
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
    shown_time : [B] int64, unix microseconds of the cut.
    """

    sparse: KeyedJaggedTensor
    candidate_dense: Tensor
    visit_dense: Tensor
    clicked: Tensor
    weight: Tensor
    user: Tensor
    row: Tensor
    shown_time: Tensor

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
        return PageBatch(**{f.name: getattr(self, f.name).pin_memory() for f in fields(self)})


@dataclass
class PairBatch:
    """Item pairs. M pairs.

    Attributes
    ----------
    sparse : KeyedJaggedTensor over ("left", "right"), stride M, one item index each.
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


T = TypeVar("T", "PageBatch", "PairBatch")


def _moved(batch: T, device: torch.device, non_blocking: bool) -> T:
    return type(batch)(**{f.name: getattr(batch, f.name).to(device, non_blocking=non_blocking) for f in fields(batch)})


def _record(batch: PageBatch | PairBatch, stream: torch.Stream) -> None:
    for f in fields(batch):
        getattr(batch, f.name).record_stream(stream)
