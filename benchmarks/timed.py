"""How a way to do some work, ours or a rival's, tells what it took. Loads the standard library only: rivals have an environment
of their own."""

import argparse
import json
import resource
import shutil
import time
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path


def arguments(ways: Iterable[str] = ()) -> argparse.Namespace:
    """`way` (where a script knows several), `--input`, `--output`, `--rounds` and `--stages` (default: all) of a way's command."""
    parser = argparse.ArgumentParser()
    if ways := list(ways):
        parser.add_argument("way", choices=ways)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--stages", type=lambda text: text.split(","))
    return parser.parse_args()


def timed(stages: Mapping[str, Callable[[Path], object]], asked: argparse.Namespace,
          cpu: Callable[[], float] = time.process_time) -> None:
    """Do every asked stage `rounds` times and print, as one line of JSON, seconds and CPU seconds of each and the most memory held.

    Parameters
    ----------
    stages : name -> work; it gets the file or folder to write, `output/name`, which is not there yet.
    asked : what `arguments` found. cpu : CPU seconds so far, for a way of several processes.
    """
    output, stages = asked.output, {name: work for name, work in stages.items() if name in (asked.stages or stages)}
    seconds: dict[str, list[float]] = {name: [] for name in stages}
    used: dict[str, list[float]] = {name: [] for name in stages}
    for _ in range(asked.rounds):
        for name, work in stages.items():
            _remove(output / name)
            started, before = time.perf_counter(), cpu()
            work(output / name)
            used[name].append(cpu() - before)
            seconds[name].append(time.perf_counter() - started)
    print(json.dumps({"seconds": seconds, "cpu": used, "rss": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))


def _remove(target: Path) -> None:
    if target.is_dir():
        shutil.rmtree(target)
    target.unlink(missing_ok=True)
