"""Random batches with a known law, and an in-memory stream of them."""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from feature_store.batch import (
    CANDIDATE_DENSE,
    FEATURES,
    FLOW_FEATURES,
    FLOW_TABLES,
    PAIR_FEATURES,
    TABLES,
    VISIT_DENSE,
    FlowBatch,
    PageBatch,
    PairBatch,
)
from models.embeddings import capacities

torch.set_num_threads(1)  # on tensors this small threads cost more than they give

ROWS = capacities({"item": 500, "category": 40, "scene": 12, "action": 12, "scenario": 10})
TABLE_OF = {feature: table for tables in (TABLES, FLOW_TABLES) for table, features in tables.items() for feature in features}


def _lengths(pages: int, low: int, high: int, generator: torch.Generator) -> Tensor:
    return torch.randint(low, high + 1, (pages,), generator=generator)


def page_batch(pages: int = 6, seed: int = 0, items: tuple[int, int] = (1, 8), tokens: tuple[int, int] = (0, 9),
               visits: tuple[int, int] = (0, 4), ids: int = 40, first_row: int = 0) -> PageBatch:
    """Random pages. A shown item is likelier clicked when its category is in the moveline, and at early positions."""
    g = torch.Generator().manual_seed(seed)
    sizes = {"moveline": _lengths(pages, *tokens, g), "visit": _lengths(pages, *visits, g), "candidate": _lengths(pages, *items, g)}
    values, lengths = [], []
    for feature in FEATURES:
        length = sizes.get(feature.partition("_")[0], torch.ones(pages, dtype=torch.long))
        limit = min(ids if TABLE_OF[feature] == "item" else 12, ROWS[TABLE_OF[feature]])
        if feature == "candidate_position":
            drawn = torch.cat([torch.arange(int(n)) for n in length])
        else:
            drawn = torch.randint(1, limit, (int(length.sum()),), generator=g)
        values.append(drawn)
        lengths.append(length)
    sparse = KeyedJaggedTensor(keys=list(FEATURES), values=torch.cat(values), lengths=torch.cat(lengths).int())
    n = int(sizes["candidate"].sum())
    batch = PageBatch(
        sparse=sparse, candidate_dense=torch.randn(n, len(CANDIDATE_DENSE), generator=g),
        visit_dense=torch.rand(int(sizes["visit"].sum()), len(VISIT_DENSE), generator=g),
        clicked=torch.zeros(n), weight=torch.ones(n), user=torch.arange(pages), row=torch.arange(first_row, first_row + pages),
        shown_time=torch.arange(pages))
    batch.clicked = (torch.rand(n, generator=g) < _truth(batch)).float()
    return batch


def _truth(batch: PageBatch) -> Tensor:
    sparse = batch.sparse.to_dict()
    lines = sparse["moveline_category"].to_dense()
    shown = sparse["candidate_category"].to_dense()
    seen = torch.cat([torch.isin(s, line) for s, line in zip(shown, lines, strict=True)]) if batch.pages else torch.zeros(0)
    return torch.sigmoid(-2.0 + 2.5 * seen.float() - 0.1 * sparse["candidate_position"].values().float())


def pair_batch(pairs: int = 64, seed: int = 0, ids: int = 40) -> PairBatch:
    """Random pairs: items of the same parity are clicked together."""
    g = torch.Generator().manual_seed(seed)
    left, right = (torch.randint(17, 17 + ids, (pairs,), generator=g) for _ in range(2))
    together = (left % 2 == right % 2) ^ (torch.rand(pairs, generator=g) < 0.1)
    kind = torch.where(together, 0, 2)
    kind = torch.where(torch.rand(pairs, generator=g) < 0.1, torch.ones_like(kind), kind)
    categories = [torch.randint(0, 12, (pairs,), generator=g) for _ in range(2)]
    sparse = KeyedJaggedTensor(keys=list(PAIR_FEATURES), values=torch.cat([left, right, *categories]),
                               lengths=torch.ones(4 * pairs, dtype=torch.int32))
    return PairBatch(sparse, kind, torch.rand(pairs, generator=g) + 0.5, torch.arange(pairs))


def flow_batch(cuts: int = 8, seed: int = 0, tokens: tuple[int, int] = (0, 9), visits: tuple[int, int] = (0, 4), future: int = 4,
               negatives: int = 30, ids: int = 60, parts: int = 2, first_row: int = 0) -> FlowBatch:
    """Random cuts, `future` interests ahead at most. The next items are those after the last token, id by id."""
    g = torch.Generator().manual_seed(seed)
    sizes = {"moveline": _lengths(cuts, *tokens, g), "visit": _lengths(cuts, *visits, g), "future": _lengths(cuts, 1, future, g),
             "negative": torch.tensor([negatives] + [0] * (cuts - 1))}
    drawn = {feature: torch.randint(1, ids if TABLE_OF[feature] == "item" else 12, (int(sizes[_kind(feature)].sum()),), generator=g)
             for feature in FLOW_FEATURES}
    last = torch.zeros(cuts, dtype=torch.long)
    some = sizes["moveline"] > 0
    last[some] = drawn["moveline_item"][torch.cumsum(sizes["moveline"], 0)[some] - 1]
    place = torch.cat([torch.arange(int(n)) for n in sizes["future"]])
    drawn["future_item"] = 1 + (torch.repeat_interleave(last, sizes["future"]) + place) % (ids - 1)
    for kind in ("moveline", "future", "negative"):
        drawn[f"{kind}_category"] = 1 + drawn[f"{kind}_item"] % 11
    sparse = KeyedJaggedTensor(keys=list(FLOW_FEATURES), values=torch.cat([drawn[f] for f in FLOW_FEATURES]),
                               lengths=torch.cat([sizes[_kind(f)] for f in FLOW_FEATURES]).int())
    order = torch.arange(cuts)
    return FlowBatch(sparse, torch.rand(len(drawn["visit_scene"]), len(VISIT_DENSE), generator=g),
                     torch.full((len(place),), -math.log(ids - 1)), torch.full((negatives,), -math.log(ids - 1)),
                     order // 2, order + first_row, order * parts // cuts, order * 1_000_000, torch.ones(cuts))


def _kind(feature: str) -> str:
    return feature.partition("_")[0]


def select(batch: PageBatch, pages: Sequence[int]) -> PageBatch:
    """Some pages of a batch, in the given order."""
    sparse, chosen = batch.sparse.to_dict(), torch.tensor(list(pages), dtype=torch.long)
    shown, visits = (_flat(sparse[name].lengths(), pages) for name in ("candidate_item", "visit_scene"))
    return PageBatch(_rows(batch.sparse, pages), batch.candidate_dense[shown], batch.visit_dense[visits], batch.clicked[shown],
                     batch.weight[shown], batch.user[chosen], batch.row[chosen], batch.shown_time[chosen],
                     None if batch.flow is None else batch.flow[chosen])


def select_cuts(batch: FlowBatch, cuts: Sequence[int]) -> FlowBatch:
    """Some cuts of a batch, in the given order; all negatives, in the first row."""
    sparse, chosen = batch.sparse.to_dict(), torch.tensor(list(cuts), dtype=torch.long)
    visits, ahead = (_flat(sparse[name].lengths(), cuts) for name in ("visit_scene", "future_item"))
    return FlowBatch(_rows(batch.sparse, cuts, whole="negative_"), batch.visit_dense[visits], batch.future_logq[ahead],
                     batch.negative_logq, batch.user[chosen], batch.row[chosen], batch.part[chosen], batch.cut_time[chosen],
                     batch.weight[chosen])


def _flat(lengths: Tensor, rows: Sequence[int]) -> Tensor:
    """Places of the values of some rows."""
    starts = torch.cumsum(lengths.long(), 0) - lengths
    parts = [torch.arange(int(starts[p]), int(starts[p] + lengths[p])) for p in rows]
    return torch.cat(parts) if parts else torch.zeros(0, dtype=torch.long)


def _rows(given: KeyedJaggedTensor, rows: Sequence[int], whole: str = "-") -> KeyedJaggedTensor:
    """Some rows; features that start with `whole` keep all values, in the first row."""
    values, lengths = [], []
    for name, own in given.to_dict().items():
        kept = name.startswith(whole)
        values.append(own.values() if kept else own.values()[_flat(own.lengths(), rows)])
        lengths.append(torch.tensor([len(own.values())] + [0] * (len(rows) - 1)) if kept
                       else own.lengths()[torch.tensor(list(rows), dtype=torch.long)])
    return KeyedJaggedTensor(keys=given.keys(), values=torch.cat(values), lengths=torch.cat(lengths).int())


def unit_flows(pages: int, steps: int, dim: int, seed: int = 0) -> Tensor:
    """[pages, steps, dim] random unit vectors, as a generator gives them."""
    return torch.nn.functional.normalize(torch.randn(pages, steps, dim, generator=torch.Generator().manual_seed(seed)), dim=2)


class PageList:
    """A stream of pages in memory: the same global batches for any number of ranks; rank r takes every world-th page of each.

    Parameters
    ----------
    batches : global batches of one epoch. rank, world : which part of each this rank sees.
    """

    def __init__(self, batches: Sequence[PageBatch], rank: int = 0, world: int = 1) -> None:
        self.batches, self.rank, self.world = list(batches), rank, world

    def steps(self, epoch: int) -> int:
        """Steps of an epoch."""
        return len(self.batches)

    def epoch(self, number: int, start: int = 0) -> Iterator[PageBatch]:
        """Batches of an epoch in an order drawn from its number."""
        order = torch.randperm(len(self.batches), generator=torch.Generator().manual_seed(number)).tolist()
        for n in order[start:]:
            batch = self.batches[n]
            yield batch if self.world == 1 else select(batch, range(self.rank, batch.pages, self.world))


class PairList(PageList):
    """The same for pairs."""

    def epoch(self, number: int, start: int = 0) -> Iterator[PairBatch]:  # type: ignore[override]
        """Batches of an epoch, in a fixed order."""
        for batch in self.batches[start:]:
            part = torch.arange(self.rank, batch.pairs, self.world)  # type: ignore[attr-defined]
            values = batch.sparse.values().view(len(PAIR_FEATURES), -1)[:, part].flatten()
            lengths = torch.ones(len(values), dtype=torch.int32)
            sparse = KeyedJaggedTensor(keys=list(PAIR_FEATURES), values=values, lengths=lengths)
            yield PairBatch(sparse, batch.kind[part], batch.weight[part], batch.page[part])  # type: ignore[attr-defined]
