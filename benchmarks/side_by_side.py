"""What benchmarks with rivals share: the rivals' environment, a run of one way with its peak memory, digests, and the table.

A way is a process of its own. It reads the same Parquet files as the others, times its work itself (its start and reading its
code do not count; reading the input and writing Parquet do) and says so through `benchmarks.timed`.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from benchmarks.memory import watch
from benchmarks.rival_env import rival_python
from jobs.ragged import Keys, counted, mixed

RIVALS = ("duckdb==2.0.0", "polars==2.1.0", "scikit-learn==1.9.1")
ROOT = Path(__file__).parent.parent
_NULL = np.uint64(0x6E756C6C)
_LISTS = (pa.types.is_list, pa.types.is_large_list)


@dataclass(frozen=True)
class Found:
    """What a way took: seconds and CPU seconds of every round by stage, and bytes that its processes held at most."""

    seconds: dict[str, list[float]]
    cpu: dict[str, list[float]]
    peak: int

    @property
    def total(self) -> float:
        """Seconds of all stages."""
        return sum(map(warm, self.seconds.values()))

    @property
    def total_cpu(self) -> float:
        """CPU seconds of all stages."""
        return sum(map(warm, self.cpu.values()))


def warm(rounds: Sequence[float]) -> float:
    """The median of all rounds but the first, which warms up (of one round, that one)."""
    return statistics.median(rounds[1:] or rounds)


def run(script: str, *words: object) -> Found:
    """Run one way, a script below `benchmarks/` (a rival's lies in `rivals/`), to its end.

    Raises
    ------
    subprocess.CalledProcessError : it failed.
    """
    python = rival_python("tables", *RIVALS) if script.startswith("rivals/") else Path(sys.executable)
    command = [str(python), str(ROOT / "benchmarks" / script), *map(str, words)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    held = watch(process)[""]
    line = last_line(process)
    # Memory is looked at twice a second; what the kernel kept for the process itself has no gaps, but leaves out its children.
    print(f"{' '.join(map(str, (script, *words)))}: {line['seconds']}", file=sys.stderr, flush=True)
    return Found(line["seconds"], line["cpu"], max(sum(held.values()), line["rss"]))


def last_line(process: subprocess.Popen) -> dict[str, Any]:
    """The JSON that an ended process printed last, on a standard output that is a pipe.

    Raises
    ------
    subprocess.CalledProcessError : it failed.
    """
    said = process.stdout.read() if process.stdout else ""
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return json.loads(said.splitlines()[-1])


def answer(command: Sequence[str], environment: Mapping[str, str] | None = None) -> Any:
    """The JSON that a process prints last, once it has ended. Raises subprocess.CalledProcessError: it failed."""
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare(ways: Mapping[str, Sequence[str]], asked: argparse.Namespace, folder: Path, columns: Mapping[str, Sequence[str]],
            lists: Mapping[str, Sequence[str]]) -> dict[str, Found]:
    """Run the asked ways on the files below `folder/in`, and stop the benchmark when they did not write the same rows.

    Parameters
    ----------
    ways : the script of each way, and its further words. asked : what `arguments` found. columns : what is compared, by stage.
    lists : by stage, columns that count as a row an element where they are lists.
    """
    found = {}
    for way in asked.ways.split(","):
        script, *words = ways[way]
        found[way] = run(script, *words, "--input", folder / "in", "--output", folder / way, "--rounds", asked.rounds,
                         "--stages", asked.stages)
    for stage in asked.stages.split(","):
        same({way: digest(folder / way / stage, columns[stage], lists.get(stage, ())) for way in found})
    return found


def arguments(text: str, size: str, usual: str, ways: Iterable[str], stages: Iterable[str]) -> argparse.Namespace:
    """`--<size>`, `--rounds`, `--ways` and `--stages` of a benchmark that compares ways; text : its help."""
    parser = argparse.ArgumentParser(description=text, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(f"--{size}", default=usual, help="sizes, separated by commas")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--ways", default=",".join(ways))
    parser.add_argument("--stages", default=",".join(stages))
    return parser.parse_args()


def digest(path: Path, columns: Sequence[str], one_row: Sequence[str] = ()) -> str:
    """Rows, and the sum of a hash of every row: the same for any order and layout of the rows of a Parquet file or folder.

    one_row : columns that count as a row an element where they are lists.
    """
    rows, total = 0, 0
    for batch in pads.dataset(path, format="parquet").to_batches(columns=list(columns)):
        batch = _exploded(batch, one_row)
        rows += batch.num_rows
        total += int(mixed(*map(hashes, batch.columns)).sum(dtype=np.uint64)) if batch.num_rows else 0
    return f"{rows:,} rows {total % 2**64:016x}"


def _exploded(batch: pa.RecordBatch, names: Sequence[str]) -> pa.RecordBatch:
    if not names or not any(kind(batch.schema.field(names[0]).type) for kind in _LISTS):
        return batch
    lengths = pc.list_value_length(batch.column(names[0])).to_numpy()
    of = pa.array(np.repeat(np.arange(batch.num_rows), lengths))
    columns = [batch.column(name).flatten() if name in names else batch.column(name).take(of) for name in batch.schema.names]
    return pa.RecordBatch.from_arrays(columns, batch.schema.names)


def hashes(column: pa.Array) -> Keys:
    """[n] a hash of every value; a list's depends on the order of its values. Widths of numbers and of text do not count."""
    if any(kind(column.type) for kind in _LISTS):
        lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
        each = mixed(hashes(column.flatten()), counted(lengths).view(np.uint64))
        sums = np.concatenate([np.zeros(1, np.uint64), np.cumsum(each, dtype=np.uint64)])
        ends = np.concatenate([[0], np.cumsum(lengths)])
        return mixed(sums[ends[1:]] - sums[ends[:-1]], lengths.view(np.uint64))
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        coded = column.dictionary_encode()
        words = pd.util.hash_array(coded.dictionary.to_numpy(zero_copy_only=False).astype(object))
        return np.append(words, _NULL)[pc.fill_null(coded.indices, len(words)).to_numpy()]
    if pa.types.is_timestamp(column.type):
        column = column.cast(pa.timestamp("us", column.type.tz))
    values = pc.fill_null(column.cast(pa.int64()), 0).to_numpy().view(np.uint64)
    return np.where(column.is_null().to_numpy(zero_copy_only=False), _NULL, values)


def same(digests: Mapping[str, str]) -> None:
    """Stop the benchmark when ways that should agree do not."""
    if len(set(digests.values())) != 1:
        sys.exit("the ways disagree:\n" + "\n".join(f"  {name:12s} {found}" for name, found in digests.items()))


def table(found: Mapping[str, Found], ours: str = "ours") -> None:
    """Print a line a way: seconds of each stage, of all, how many times those of ours that is, the same in CPU, the peak memory."""
    names = ("", *found[ours].seconds, "all, s", "of ours", "CPU, s", "of ours", "peak, GB", "first, s")
    print("".join(f"{name:>12s}" for name in names))
    for name, own in found.items():
        first = sum(rounds[0] for rounds in own.seconds.values())
        cells = (*map(warm, own.seconds.values()), own.total, own.total / found[ours].total, own.total_cpu,
                 own.total_cpu / found[ours].total_cpu, own.peak / 1e9, first)
        print(f"{name:12s}" + "".join(f"{cell:12.2f}" for cell in cells), flush=True)


def line(benchmark: str, runs: Iterable[Mapping[str, Any]]) -> None:
    """Print one line of JSON."""
    machine = {"cores": os.cpu_count(), "load": os.getloadavg()[0], "rivals": RIVALS}
    print(json.dumps({"benchmark": benchmark, **machine, "runs": list(runs)},
                     default=lambda value: asdict(value) if isinstance(value, Found) else str(value)))
