"""Runs that do not need each other, several at a time: each in a process of its own, with its share of the cores.

Training steps of small models are made of many small operations, which a second thread makes no faster (docs/results/amen.md,
time of an arm); two trainings that share nothing do twice as much on two cores as one (docs/benchmarks.md, ranks).
"""

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from typing import TypeVar

Found = TypeVar("Found")


def each(run: Callable[..., Found], calls: Iterable[tuple], at_once: int) -> Iterator[Found]:
    """What `run` gives for each of the calls' arguments, as soon as it is there.

    What a run raises is raised here, once the others that have begun are done; those that have not are given up.

    Parameters
    ----------
    run : a function of a module, as its arguments are sent to other processes. at_once : 1 runs them here, one after the other.
    """
    if at_once == 1:
        yield from (run(*call) for call in calls)
        return
    with ProcessPoolExecutor(at_once, get_context("spawn"), _take_share, (at_once,)) as pool:
        try:
            for done in as_completed([pool.submit(run, *call) for call in calls]):
                yield done.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _take_share(at_once: int) -> None:
    """Use as many threads as this process has cores to itself."""
    import torch

    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // at_once))
