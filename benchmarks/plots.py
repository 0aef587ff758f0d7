"""Pictures of benchmarks: SVG that is the same for the same figures."""

from collections.abc import Mapping
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot

pyplot.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "moveline", "font.size": 8, "axes.spines.top": False,
                        "axes.spines.right": False})


def around_goals(times: Mapping[str, float], path: Path) -> None:
    """A bar a figure, by how many times as good as its goal it is: blue to the right of 1, orange to the left."""
    figure, axes = pyplot.subplots(figsize=(8, 0.6 + 0.22 * len(times)), layout="constrained")
    colours = ["#2563eb" if own >= 1 else "#d97706" for own in times.values()]
    axes.barh(list(times), [own - 1 for own in times.values()], left=1, color=colours)
    axes.axvline(1, color="black", linewidth=0.8)
    axes.invert_yaxis()
    axes.set(xscale="log", xlabel="times as good as the goal (blue: reached, orange: missed)", xticks=[0.5, 1, 2, 5],
             xticklabels=["0.5", "1", "2", "5"])
    axes.minorticks_off()
    figure.savefig(path, metadata={"Date": None})


def bars(groups: Mapping[str, Mapping[str, float]], label: str, path: Path, ours: str = "din", log: bool = False) -> None:
    """Horizontal bars with their numbers, a panel a group; those whose names begin with `ours` stand out."""
    figure, panels = pyplot.subplots(1, len(groups), figsize=(4.8 * len(groups), 0.8 + 0.28 * max(map(len, groups.values()))),
                                     sharey=True, squeeze=False, layout="constrained")
    for axes, (title, values) in zip(panels[0], groups.items(), strict=True):
        colours = ["#2563eb" if name.startswith(ours) else "#9aa5b1" for name in values]
        drawn = axes.barh(list(values), list(values.values()), color=colours)
        said = [f"{value / 1e6:,.{0 if value > 1e8 else 1}f} M" if log else f"{value:,.0f}" for value in values.values()]
        axes.bar_label(drawn, said, padding=3)
        axes.set(title=title, xlabel=label, xscale="log" if log else "linear")
        axes.margins(x=0.3 if log else 0.16)
    panels[0][0].invert_yaxis()
    figure.savefig(path, metadata={"Date": None})
