"""The clock that both sides of `train` run under; needs the standard library alone, so that a rival's environment can load it."""

import resource
import time
from collections.abc import Callable, Iterator
from typing import Any

_WARM = 4
"""Steps before the clock starts."""


def pace(batches: Iterator[Any], step: Callable[[Any], float], size: Callable[[Any], int], seconds: float) -> dict[str, float]:
    """Train for some seconds.

    Returns
    -------
    items_per_s : shown items a second. steps_alone : the same without the time spent waiting for a batch. data_wait : the share of
    time that was waited. ms_a_step, steps, items. cpu_a_item_us : CPU microseconds of this process a shown item.
    memory_mb : the most that this process held. loss : of the last step.
    """
    for _ in range(_WARM):
        step(next(batches))
    waited = worked = 0.0
    items = steps = 0
    loss = float("nan")
    cpu = time.process_time()
    while waited + worked < seconds:
        started = time.perf_counter()
        batch = next(batches)
        got = time.perf_counter()
        loss = step(batch)
        worked += time.perf_counter() - got
        waited += got - started
        items, steps = items + size(batch), steps + 1
    cpu, whole = time.process_time() - cpu, waited + worked
    return {"items_per_s": items / whole, "steps_alone": items / worked, "data_wait": waited / whole,
            "ms_a_step": 1e3 * worked / steps, "steps": steps, "items": items, "cpu_a_item_us": 1e6 * cpu / items,
            "memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, "loss": loss}
