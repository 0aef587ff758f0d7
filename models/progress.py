"""One line that says how training goes: a live one on a terminal, log lines otherwise."""

import logging
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import parent_process
from typing import Any

import psutil
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from feature_store.batch import FlowBatch, PageBatch
from models.base import Batch

log = logging.getLogger("moveline.train")
_SECONDS_BETWEEN_LINES = 10.0


class Meter:
    """Counts of one stretch of training: losses, pages, items, and the time spent waiting for data."""

    def __init__(self) -> None:
        self.started = time.perf_counter()
        self.waiting = 0.0
        self.units = 0
        self.items = 0
        self.losses: list[float] = []

    def waited(self, batches: Iterator[Batch]) -> Batch | None:
        """The next batch, None at the end; the time it takes is data-wait."""
        start = time.perf_counter()
        batch = next(batches, None)
        self.waiting += time.perf_counter() - start
        return batch

    def did(self, batch: Batch, loss: float) -> None:
        """Count one step."""
        units, items = _counts(batch)
        self.units += units
        self.items += items
        self.losses.append(loss)

    def figures(self) -> dict[str, float]:
        """Rates of this rank, data-wait share and memory."""
        seconds = max(time.perf_counter() - self.started, 1e-9)
        return {"seconds": round(seconds, 3), "pages_per_s": round(self.units / seconds, 1),
                "items_per_s": round(self.items / seconds, 1), "data_wait": round(self.waiting / seconds, 4),
                "memory_mb": round(psutil.Process().memory_info().rss / 2**20, 1)}

    def line(self) -> str:
        """The figures in words."""
        f = self.figures()
        recent = self.losses[-50:]
        loss = sum(recent) / max(len(recent), 1)
        return (f"loss {loss:.4f}  {f['pages_per_s']:,.0f} pages/s  {f['items_per_s']:,.0f} items/s  "
                f"data wait {f['data_wait']:.0%}  {f['memory_mb']:,.0f} MB")


def _counts(batch: Batch) -> tuple[int, int]:
    """Pages and shown items, cuts and futures, or pairs twice."""
    if isinstance(batch, PageBatch):
        return batch.pages, batch.items
    return (batch.cuts, batch.futures) if isinstance(batch, FlowBatch) else (batch.pairs, batch.pairs)


Show = Callable[[int, int, Meter], None]


@contextmanager
def progress_line(name: str, rank: int, steps: int) -> Iterator[Show]:
    """A function to call after every step; rank 0 alone shows anything."""
    if rank != 0:
        yield lambda epoch, step, meter: None
    elif sys.stderr.isatty() and parent_process() is None:  # of several trainings at once, none draws over the others
        with Progress(TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed}/{task.total}"),
                      TimeRemainingColumn(), TextColumn("{task.fields[line]}")) as bar:
            task = bar.add_task(name, total=steps, line="")
            yield lambda epoch, step, meter: bar.update(task, completed=step, description=f"{name} epoch {epoch}",
                                                        line=meter.line())
    else:
        last = time.perf_counter()

        def show(epoch: int, step: int, meter: Meter) -> None:
            nonlocal last
            if step == steps or time.perf_counter() - last > _SECONDS_BETWEEN_LINES:
                last = time.perf_counter()
                log.info("%s epoch %d step %d/%d  %s", name, epoch, step, steps, meter.line())

        yield show


def compared_by(epoch: Mapping[str, Any]) -> float:
    """What epochs of a history are compared by, less is better: minus the validation AUC of what ranks, else the validation loss.

    What ranks is compared by how it ranks: at an epoch's end the loss also wavers with the level of all scores.
    """
    return -epoch["validate_auc"] if "validate_auc" in epoch else epoch["validate_loss"]
