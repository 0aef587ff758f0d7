"""How good a generator is on held-out walks: recall of the next items among others, beside popularity, with intervals by user."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError
from feature_store.loader import FlowStream
from feature_store.negatives import Pool
from models.bootstrap import Estimate, Resampler, estimate
from models.evaluation import MODEL, Drawn, Result, differences, plain
from models.flow_metrics import effective_rank, pairwise_cosine, recalls
from models.layers import Jagged
from models.metrics import Floats, Ints, Ratio
from models.nif import Nif

OTHERS = 10_000
"""Items that a next item must stand out from."""

RECALL_AT = (50, 200)
_FUTURES_AT_ONCE = 2_048


@dataclass(frozen=True)
class Hits:
    """F next items of held-out walks, in order.

    Attributes
    ----------
    user, step : [F] number of the user, place of the item in its future. model, popular : [len(RECALL_AT), F] 1 where it is found.
    others : how many items it had to stand out from. rows : cuts. loss, weight : sum of the loss, and what it is divided by.
    cosine, rank : mean cosine of two steps of a flow, effective rank of the flows (`models.flow_metrics`).
    """

    user: Ints
    step: Ints
    model: Floats
    popular: Floats
    others: int
    rows: int
    loss: float
    weight: float
    cosine: float
    rank: float


@torch.no_grad()
def find_futures(model: Nif, test: EncodedSet, pool_file: str) -> Hits:
    """Look for the futures of encoded flows among items drawn from the pool of the training rows.

    Raises
    ------
    ModelError : there is nothing to judge on.
    """
    if not test.rows:
        raise ModelError(f"model {model.name}: the test set {test.folder} has no rows; see `split` in the recipe")
    pool = Pool.load(pool_file)
    some = np.sort(np.random.default_rng(0).choice(len(pool.item), min(OTHERS, len(pool.item)), replace=False))
    item = torch.from_numpy(pool.item[some])
    vectors, count = model.items(item, torch.from_numpy(pool.category[some])), pool.count[some]
    stream = FlowStream(test, futures_a_batch=_FUTURES_AT_ONCE, pool=pool_file, negatives=model.config.negatives, shards=1,
                        shuffle=False, rows=model.rows)
    user, step, found, popular = [], [], [], []
    sums, gram = np.zeros(3), torch.zeros(model.config.dim, model.config.dim, dtype=torch.float64)
    for batch in stream.epoch(0):
        output = model(batch)
        lengths = batch.sparse["future_item"].lengths()
        every, steps = Jagged(lengths), Jagged(lengths.clamp(max=model.config.future))
        own = batch.sparse["future_item"].values()[every.place < model.config.future]
        lifts = model.lifts(batch, steps, own, item)
        found.append(recalls(output.flow, output.target, own, steps, vectors, item, RECALL_AT, lifts).double().numpy())
        popular.append(_popular(own.numpy(), pool, some, count))
        user.append(batch.user.index_select(0, steps.page).numpy())
        step.append(steps.place.numpy())
        terms = model.validation_terms(output, batch)
        sums += [float(value) for value in (terms.sums.sum(), terms.weights.sum(), pairwise_cosine(output.flow).sum())]
        flat = output.flow.flatten(0, 1).double()
        gram += flat.T @ flat
    loss, weight, cosine = sums.tolist()
    return Hits(np.concatenate(user), np.concatenate(step), np.concatenate(found, 1), np.concatenate(popular, 1), len(some),
                test.rows, loss, weight, cosine / test.rows, _rank(gram))


def _rank(gram: torch.Tensor) -> float:
    """Effective rank of the vectors whose products add up to `gram`: any vectors with these products have the same."""
    return float(effective_rank(torch.linalg.eigvalsh(gram).clamp(min=0).sqrt().diag()))


def _popular(item: Ints, pool: Pool, some: Ints, count: Ints) -> Floats:
    """[len(RECALL_AT), F] as `flow_metrics.recalls`, where items are ranked by how often they occurred."""
    at = np.minimum(np.searchsorted(pool.item, item), len(pool.item) - 1)
    known = pool.item[at] == item
    own = np.where(known, pool.count[at], 0)
    drawn = np.isin(at, some) & known
    rank = len(count) - np.searchsorted(np.sort(count), own, side="left") - drawn
    return np.stack([(rank < limit).astype(np.float64) for limit in RECALL_AT])


def evaluate_flows(parts: Sequence[Hits]) -> Result:
    """The result (see `models.evaluation`) of a generator, or of the generators of all folds together.

    Beside the usual: `steps`, recall by place of the item in its future.
    """
    user = np.concatenate([part.user + n * 2**40 for n, part in enumerate(parts)])
    step = np.concatenate([part.step for part in parts])
    hits = {MODEL: np.concatenate([part.model for part in parts], 1), "popularity": np.concatenate([p.popular for p in parts], 1)}
    resampler = Resampler(user)
    drawn = {name: {f"recall_{at}": _drawn(own[n], resampler) for n, at in enumerate(RECALL_AT)} for name, own in hits.items()}
    rows = np.array([part.rows for part in parts], np.float64)
    single = {"loss": sum(p.loss for p in parts) / max(sum(p.weight for p in parts), 1e-12),
              "pairwise_cosine": float(np.average([p.cosine for p in parts], weights=rows)),
              "effective_rank": float(np.average([p.rank for p in parts], weights=rows))}
    found = {name: {metric: plain(estimate(*d)) for metric, d in own.items()} for name, own in drawn.items()}
    found[MODEL] |= {name: plain(Estimate(value, math.nan, math.nan, math.nan)) for name, value in single.items()}
    return {
        "reads": "flows", "metrics": found, "differences": {"popularity": differences(drawn[MODEL], drawn["popularity"])},
        "rows": {"cuts": int(rows.sum()), "users": resampler.clusters, "next_items": len(user),
                 "among": max(part.others for part in parts)},
        "steps": {f"recall_{at}": [float(hits[MODEL][n][step == k].mean()) for k in range(int(step.max()) + 1)]
                  for n, at in enumerate(RECALL_AT)},
        "scenarios": {}, "curves": {},
    }


def _drawn(hit: Floats, resampler: Resampler) -> Drawn:
    parts = Ratio(hit, np.ones(len(hit)), np.arange(len(hit)))
    return parts.value, resampler.ratio(parts)
