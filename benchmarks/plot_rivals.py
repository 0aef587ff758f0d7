"""Plot what `moveline_build.py` and `pairs.py` printed: CPU seconds of the largest size by stage, a bar a way (docs/benchmarks.md).

    PYTHONPATH=. python benchmarks/plot_rivals.py moveline_build.txt pairs.txt docs/pictures/rivals.svg
"""

import argparse
import json
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
from matplotlib import pyplot
from matplotlib.axes import Axes

from benchmarks.side_by_side import warm


def last_line(file: Path) -> dict[str, Any]:
    """The JSON that a benchmark printed last."""
    return json.loads(file.read_text().splitlines()[-1])


def draw(axes: Axes, found: dict[str, Any]) -> None:
    """One benchmark: bars of every way, stacked by stage."""
    run = found["runs"][-1]
    ways, left = list(run["ways"]), dict.fromkeys(run["ways"], 0.0)
    for stage in run["ways"][ways[0]]["cpu"]:
        seconds = [warm(run["ways"][way]["cpu"][stage]) for way in ways]
        axes.barh(ways, seconds, left=[left[way] for way in ways], label=stage)
        left = {way: left[way] + more for way, more in zip(ways, seconds, strict=True)}
    size = next(f"{run[name]:,} {name}" for name in ("events", "pages") if name in run)
    axes.invert_yaxis()
    axes.set(xlabel="CPU seconds", title=f"{found['benchmark']}: {size}")
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1, 1))


def main() -> None:
    """Draw the benchmarks below each other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("printed", type=Path, nargs="+", help="what a benchmark printed")
    parser.add_argument("picture", type=Path)
    asked = parser.parse_args()
    pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "moveline"})
    rows = len(asked.printed)
    figure, panels = pyplot.subplots(rows, 1, figsize=(7, 2.3 * rows), layout="constrained", squeeze=False)
    for axes, file in zip(panels[:, 0], asked.printed, strict=True):
        draw(axes, last_line(file))
    figure.savefig(asked.picture, metadata={"Date": None})


if __name__ == "__main__":
    main()
