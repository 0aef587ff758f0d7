"""CPU seconds and memory of sampling the pairs of one long page beside usual ones: `jobs.pairs` in one process, without Spark.

    PYTHONPATH=. python benchmarks/long_page.py [--pages 2000] [--items 0,2000,10000]

Pages as in `benchmarks/pairs.py`, and one of so many items more; 400 pairs a kind. The peak is that of the process until then.
Prints a table.
"""

import argparse
import resource
import time

import numpy as np
import pyarrow as pa

from benchmarks.pairs import lengths_of, pages
from feature_store.recipe import Pairs
from jobs.pairs import _BLOCK, _sample_batches


def batch(lengths: np.ndarray, draw: np.random.Generator) -> pa.RecordBatch:
    """What Spark hands to the workers: pages with their counts, items and the keys that sample."""
    [made] = pages(lengths, draw).combine_chunks().to_batches()
    flags = made.column("clicked")
    clicked = np.add.reduceat(flags.flatten().to_numpy(zero_copy_only=False).astype(np.int64), flags.offsets.to_numpy()[:-1])
    rest = lengths - clicked
    keys, page_keys = (draw.integers(-2**63, 2**63 - 1, n) for n in (int(lengths.sum()), len(lengths)))
    same = {name: made.column(name) for name in ("page_id", "user_id", "shown_time", "label_time", "scenario", "ds")}
    return pa.RecordBatch.from_pydict({
        **same, "n_items": pa.array(lengths), "n_clicked": pa.array(clicked), "co_click": pa.array(clicked * (clicked - 1) // 2),
        "co_non_click": pa.array(rest * (rest - 1) // 2), "mono_click": pa.array(clicked * rest), "_clicked": flags,
        "_item": made.column("item_id"), "_category": made.column("category_id"),
        "_item_key": pa.ListArray.from_arrays(flags.offsets, pa.array(keys)), "_page_key": pa.array(page_keys)})


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pages", type=int, default=2_000)
    parser.add_argument("--items", default="0,2000,10000")
    asked = parser.parse_args()
    print(f"{'items':>8s}{'CPU, s':>9s}{'pairs sampled':>16s}{'peak, MB':>10s}")
    for items in map(int, asked.items.split(",")):
        draw = np.random.default_rng(0)
        made = batch(np.append(lengths_of(asked.pages, draw), np.array([items] if items else [], np.int64)), draw)
        before = time.process_time()
        sampled = sum(len(part.column("kind").flatten()) for part in _sample_batches(iter([made]), Pairs().max_a_page, _BLOCK))
        print(f"{items:8,}{time.process_time() - before:9.2f}{sampled:16,}"
              f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3:10.0f}", flush=True)


if __name__ == "__main__":
    main()
