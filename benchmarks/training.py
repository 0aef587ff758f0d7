"""Training steps a second of the ranking models, and of the generator, on synthetic batches in memory: one process, one thread.

`PYTHONPATH=. python benchmarks/training.py` prints a line a model: pages/s (cuts/s), shown items/s (futures/s), ms a step, and its
share of din's pages/s. A page has a moveline of 50 tokens, 12 visits and 25 shown items; three pages a user. Seconds are those of
the processor and models take turns, so that it counts little what else runs on the machine.
"""

import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch

from feature_store.batch import FlowBatch, PageBatch
from models.base import Batch
from models.catalog import model_class
from models.distributed import process_group
from models.embeddings import capacities
from models.trainer import Trainer
from tests.models import synthetic

ROWS = capacities({"item": 20_000, "category": 500, "scene": 12, "action": 12, "scenario": 10})
PAGES, SHOWN, TOKENS, VISITS, FUTURE = 164, 25, 50, 12, 8
ROUNDS, STEPS = 5, 4
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "din": ("din", {}), "din, dim 32": ("din", {"dim": 32}), "amen, no generator, no tsp": ("amen", {"tsp": "none"}),
    "amen, no generator": ("amen", {}), "amen": ("amen", {"generator": "nif"}),
    "amen, tsp b": ("amen", {"generator": "nif", "tsp": "b"}), "nif": ("nif", {}), "nif, sphere": ("nif", {"form": "sphere"}),
}


def pages(seed: int) -> PageBatch:
    """A global batch of about 4,096 shown items."""
    batch = synthetic.page_batch(PAGES, seed, (SHOWN, SHOWN), (TOKENS, TOKENS), (VISITS, VISITS), ids=20_000)
    batch.user = torch.arange(PAGES) // 3
    batch.flow = synthetic.unit_flows(PAGES, FUTURE, 32, seed)
    return batch


def flows(seed: int) -> FlowBatch:
    """512 cuts in 4 parts with 1,024 sampled negatives."""
    return synthetic.flow_batch(512, seed, (TOKENS, TOKENS), (VISITS, VISITS), FUTURE, 1_024, 20_000, 4)


class Pace:
    """One model and its trainer; `run` takes some steps and keeps their time."""

    def __init__(self, model: str, settings: dict[str, Any], batches: list[Batch], place: Any, folder: Path) -> None:
        self.trainer = Trainer(model_class(model).build(settings, ROWS), place, synthetic.PageList([]), None, folder)
        self.batches = batches
        self.seconds: list[float] = []

    def run(self) -> None:
        """Some steps."""
        self.trainer.wrapped.train()
        for batch in self.batches:
            start = time.process_time()
            self.trainer.step(batch)
            self.seconds.append(time.process_time() - start)


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    page_batches, flow_batches = [pages(n) for n in range(STEPS)], [flows(n) for n in range(STEPS)]
    with process_group() as place, tempfile.TemporaryDirectory() as folder:
        paces = {name: Pace(model, settings, [*(flow_batches if model == "nif" else page_batches)], place, Path(folder))
                 for name, (model, settings) in MODELS.items()}
        for _ in range(ROUNDS):
            for pace in paces.values():
                pace.run()
    # The first round warms up.
    each = {name: statistics.median(pace.seconds[STEPS:]) for name, pace in paces.items()}
    for name, seconds in each.items():
        generator = name.startswith("nif")
        rows, items = (512, flow_batches[0].futures) if generator else (PAGES, PAGES * SHOWN)
        share = "" if generator else f"  {each['din'] / seconds:.2f} of din"
        pace = f"{rows / seconds:7,.0f} rows/s {items / seconds:9,.0f} items/s {1e3 * seconds:7.1f} ms"
        sys.stdout.write(f"{name:28} {pace}{share}\n")


if __name__ == "__main__":
    main()
