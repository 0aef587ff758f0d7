"""Latency of scoring the candidates of one request: dot product, exact multi-head target attention, tarq. docs/results/tarq.md.

    PYTHONPATH=. python benchmarks/preranking.py

prints, for every number of threads, of history tokens n and of candidates C, p50 and p99 in milliseconds, and how many times faster
than exact attention tarq is. All begin with the encoded history and the user's vector, which every model computes once a request;
item vectors and codes lie ready, as in the table `item_side`. 64 columns, 4 heads; models are untrained, which costs the same.

- dot product: C vectors times the user's.
- gather: the sum of L rows of C items, 64 columns wide, as if the head's first layer were not applied to the books beforehand.
- exact: attention of C items to n tokens, and the head.
- tarq: personalised code books (attention of L x K code vectors to n tokens), gather, and the head.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.catalog import model_class
from models.embeddings import capacities
from models.tarq import Tarq

DIM, HEADS, LEVELS = 64, 4, 3
CANDIDATES, TOKENS, THREADS, CODES = (1_000, 5_000, 20_000), (50, 200), (1, 2), (64, 256)
WARM, RUNS, SECONDS = 5, 200, 6.0
"""Runs that are not counted, runs that are, and after how many seconds no further one begins (30 runs at least)."""

ROWS = capacities({"item": 500, "category": 40, "scene": 12, "action": 12, "scenario": 10})


class Request:
    """One user's history, and candidates with their side of the table."""

    def __init__(self, candidates: int, tokens: int) -> None:
        draw = torch.Generator().manual_seed(0)
        self.history = torch.randn(1, tokens, DIM, generator=draw)
        self.mask = torch.ones(1, tokens, dtype=torch.bool)
        self.user = F.normalize(torch.randn(DIM, generator=draw), dim=0)
        self.items = torch.randn(candidates, DIM, generator=draw)
        self.vectors = F.normalize(self.items, dim=1)
        self.codes = {size: torch.randint(0, size, (candidates, LEVELS), generator=draw) for size in CODES}


def model(codes: int) -> Tarq:
    """An untrained model in evaluation mode."""
    made = model_class("tarq").build({"dim": DIM, "heads": HEADS, "levels": LEVELS, "codes": codes}, ROWS).eval()
    assert isinstance(made, Tarq)
    return made


def exact(made: Tarq, request: Request) -> Tensor:
    """[C] scores by the teacher's attention and head."""
    found = made.teacher.attend(request.items[None], request.history, request.mask)[0]
    pair = request.user * request.vectors
    return made.sharpness * (request.vectors @ request.user) + made.teacher.head(found, pair, torch.zeros(0))


def student(made: Tarq, request: Request) -> Tensor:
    """[C] scores by books, gather and head."""
    person = made.prepared(request.user, request.history, request.mask)
    return made.scores(person, request.codes[made.config.codes], request.vectors)


def gather(made: Tarq, request: Request) -> Tensor:
    """[C, DIM] sums of rows of books that were not put behind the head's first layer."""
    codes = request.codes[made.config.codes] + made.config.codes * torch.arange(LEVELS)
    return F.embedding_bag(codes, made.quantiser.books.flatten(0, 1), mode="sum")


def timed(work: Callable[[], Tensor]) -> tuple[float, float]:
    """p50 and p99 in milliseconds."""
    for _ in range(WARM):
        work()
    found: list[float] = []
    began = time.perf_counter()
    while len(found) < RUNS and (len(found) < 30 or time.perf_counter() - began < SECONDS):
        start = time.perf_counter()
        work()
        found.append(1e3 * (time.perf_counter() - start))
    return float(np.percentile(found, 50)), float(np.percentile(found, 99))


@torch.inference_mode()
def main() -> None:
    """Print the table."""
    models = {size: model(size) for size in CODES}
    heads = ["dot product", "gather", "exact", *(f"tarq, K = {size}" for size in CODES), *(f"faster, K = {size}" for size in CODES)]
    print(f"| threads | n | C | {' | '.join(heads)} |\n|{' --- |' * (3 + len(heads))}")
    for threads in THREADS:
        torch.set_num_threads(threads)
        for tokens in TOKENS:
            for candidates in CANDIDATES:
                request = Request(candidates, tokens)
                first = models[CODES[0]]
                works: list[Callable[[], Tensor]] = [
                    lambda r=request: r.vectors @ r.user, lambda r=request, m=first: gather(m, r),  # type: ignore[misc]
                    lambda r=request, m=first: exact(m, r), *((lambda r=request, m=m: student(m, r)) for m in models.values())]
                found = [timed(work) for work in works]
                faster = [f"{found[2][0] / own[0]:.1f}×" for own in found[3:]]
                cells = [f"{p50:.3f} / {p99:.3f}" for p50, p99 in found]
                print(f"| {threads} | {tokens} | {candidates:,} | {' | '.join([*cells, *faster])} |", flush=True)


if __name__ == "__main__":
    main()
