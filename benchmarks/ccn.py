"""What the pair losses of ccn cost: time of a training step with and without them, and peak memory by the number of pages.

`PYTHONPATH=. python benchmarks/ccn.py` prints milliseconds a step at pages of 25 items (50 tokens, 12 visits, 164 pages a step),
and how much memory the losses alone take for pages of 25 items and of 283, the longest of the real logs. Seconds are those of the
processor and the variants take turns; memory is the peak of a process of its own, above what it held before.
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

from benchmarks.side_by_side import answer
from models.catalog import model_class
from models.distributed import process_group
from models.embeddings import capacities
from models.page_pairs import Sampling, Viewed, pair_losses
from models.trainer import Trainer
from tests.models import synthetic

ROWS = capacities({"item": 20_000, "category": 500, "scene": 12, "action": 12, "scenario": 10})
PAGES, SHOWN, TOKENS, VISITS = 164, 25, 50, 12
ROUNDS, STEPS = 7, 4
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "ccn, no pair losses": ("ccn", {"attract": 0.0, "repel": 0.0}), "ccn": ("ccn", {}),
    "ccn, sampled": ("ccn", {"co_non_click": 2.0, "mono_click": 4.0, "quiet": 0.1}), "ccn, supcon": ("ccn", {"form": "supcon"}),
    "din": ("din", {}), "dihn": ("dihn", {}), "dei2n": ("dei2n", {}),
}


def times() -> None:
    """Milliseconds a step of each variant."""
    lengths = {"items": (SHOWN, SHOWN), "tokens": (TOKENS, TOKENS), "visits": (VISITS, VISITS)}
    batches = [synthetic.page_batch(PAGES, n, ids=20_000, **lengths) for n in range(STEPS)]
    with tempfile.TemporaryDirectory() as folder, process_group() as place:
        models = {name: model_class(model).build(settings, ROWS) for name, (model, settings) in VARIANTS.items()}
        trainers = {name: Trainer(own, place, synthetic.PageList([]), None, Path(folder) / name) for name, own in models.items()}
        seconds: dict[str, list[float]] = {name: [] for name in trainers}
        for number in range(ROUNDS + 1):
            for name, trainer in trainers.items():
                trainer.wrapped.train()
                for batch in batches:
                    start = time.process_time()
                    trainer.step(batch)
                    if number:  # the first round warms up
                        seconds[name].append(time.process_time() - start)
    base = statistics.median(seconds["ccn, no pair losses"])
    for name, own in seconds.items():
        median = statistics.median(own)
        print(f"{name:22s} {1e3 * median:7.1f} ms a step, {100 * (median / base - 1):+6.1f} % of ccn without pair losses")


def memory(pages: int, items: int) -> None:
    """Peak bytes of forward and backward of the pair losses in this process, above what it held before."""
    batch = synthetic.page_batch(pages, 0, (items, items), (0, 0), (0, 0))
    vectors = torch.nn.functional.normalize(torch.randn(batch.items, 64), dim=1).requires_grad_()
    pair_losses(vectors[:8], Viewed.of(synthetic.page_batch(1, 0, (8, 8))), 0.1, Sampling()).sum().backward()
    viewed = Viewed.of(batch)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = _status("VmRSS")
    pair_losses(vectors, viewed, 0.1, Sampling()).sum().backward()
    print(_status("VmHWM") - before)


def _status(key: str) -> int:
    """A size of this process in KiB, from the kernel."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(lines[key].split()[0])


def main() -> None:
    """Print both tables; with two numbers as arguments, the memory of so many pages of so many items alone."""
    if len(sys.argv) == 3:
        memory(int(sys.argv[1]), int(sys.argv[2]))
        return
    times()
    for pages, items in ((2_000, 25), (4_000, 25), (8_000, 25), (100, 283), (200, 283), (400, 283)):
        held = answer([sys.executable, __file__, str(pages), str(items)]) * 1024
        print(f"{pages:6,d} pages of {items:3d} items: {held / 2**20:7.1f} MiB, {held / pages / 1024:7.1f} KiB a page")


if __name__ == "__main__":
    main()
