"""Latency of scoring the candidates of one request: dot product, exact multi-head target attention, tarq. docs/results/tarq.md.

    PYTHONPATH=. python benchmarks/preranking.py

prints, for every number of threads, of history tokens n and of candidates C, p50 and p99 in milliseconds, how many times faster
than exact attention tarq is, and last the goals. All begin with the encoded history and the user's vector, which every model
computes once a request; item vectors and codes lie ready, as in the table `item_side`. 64 columns, 4 heads; models are untrained,
which costs the same.

- dot product: C vectors times the user's.
- gather: the sum of L rows of C items, 64 columns wide, as if the head's first layer were not applied to the books beforehand.
- exact: attention of C items to n tokens, and the head, served as well as tarq: linear layers that follow one another are one.
- tarq: personalised code books (attention of L x K code vectors to n tokens), gather, and the head.
"""

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from models.catalog import model_class
from models.embeddings import capacities
from models.tarq import Tarq

DIM, HEADS, LEVELS = 64, 4, 3
CANDIDATES, TOKENS, THREADS, CODES = (1_000, 5_000, 20_000), (50, 200), (1, 2), (64, 256)
WARM, RUNS, SECONDS = 5, 300, 8.0
"""Runs that are not counted, runs that are, and after how many seconds no further one begins (30 runs at least)."""

GOALS = (("exact / tarq", 5_000, 3.0), ("exact / tarq", 20_000, 6.0), ("gather / dot product", 5_000, 10.0))
"""Of one thread and the longest history: at least so many times for the first two, at most for the last."""

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
    attend, head = made.teacher.attend, made.teacher.head.mlp
    weight, bias = head.layers[0].parameters()
    found, pair = weight[:, :DIM], weight[:, DIM:]
    out, shift = attend.out.parameters()
    looked = attend.looked(request.items[None], request.history)[0]
    hidden = F.linear(looked, found @ out, found @ shift + bias)
    hidden.addmm_(request.vectors, (pair * request.user).t().contiguous()).relu_()
    last, level = head.out.parameters()
    return torch.addmv(level + request.vectors @ (made.sharpness * request.user), hidden, last[0])


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


def cell(models: dict[int, Tarq], request: Request) -> list[tuple[float, float]]:
    """p50 and p99 of the dot product, the gather, exact attention, and tarq with each size of its books."""
    first = models[CODES[0]]
    works: list[Callable[[], Tensor]] = [lambda: request.vectors @ request.user, lambda: gather(first, request),
                                         lambda: exact(first, request)]
    return [timed(work) for work in [*works, *(partial(student, made, request) for made in models.values())]]


def goals(found: dict[int, list[tuple[float, float]]]) -> list[str]:
    """A line a goal, from the cells by C of one thread and the longest history."""
    lines = []
    for name, candidates, wanted in GOALS:
        dot, gathered, attended, *students = (p50 for p50, _ in found[candidates])
        if name == "exact / tarq":
            values = [attended / own for own in students]
            met = [value >= wanted for value in values]
        else:
            values = [gathered / dot]
            met = [values[0] <= wanted]
        told = ", ".join(f"{value:.1f}× ({'met' if ok else 'missed'})" for value, ok in zip(values, met, strict=True))
        lines.append(f"{name}, C = {candidates:,}, goal {wanted:g}×: {told}")
    return lines


@torch.inference_mode()
def main() -> None:
    """Print the table and the goals."""
    models = {size: model(size) for size in CODES}
    heads = ["dot product", "gather", "exact", *(f"tarq, K = {size}" for size in CODES), *(f"faster, K = {size}" for size in CODES)]
    print(f"| threads | n | C | {' | '.join(heads)} |\n|{' --- |' * (3 + len(heads))}")
    judged: dict[int, list[tuple[float, float]]] = {}
    for threads in THREADS:
        torch.set_num_threads(threads)
        for tokens in TOKENS:
            for candidates in CANDIDATES:
                found = cell(models, Request(candidates, tokens))
                if (threads, tokens) == (min(THREADS), max(TOKENS)):
                    judged[candidates] = found
                faster = [f"{found[2][0] / own[0]:.1f}×" for own in found[3:]]
                cells = [f"{p50:.3f} / {p99:.3f}" for p50, p99 in found]
                print(f"| {threads} | {tokens} | {candidates:,} | {' | '.join([*cells, *faster])} |", flush=True)
    print("\n".join(goals(judged)))


if __name__ == "__main__":
    main()
