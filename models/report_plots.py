"""The pictures of a report, as SVG text to put into a page: no network, no script, no font of another machine."""

import io
import re
import zlib
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

INK, QUIET, GRID = "#1f2933", "#7b8794", "#e4e7eb"
COLOURS = {"model": "#2563eb", "popularity": "#d97706", "recent": "#059669", "position": "#9333ea",
           "recent_position": "#db2777", "base_rate": "#9aa5b1"}
_STYLE = {"font.size": 9, "font.family": "sans-serif", "axes.edgecolor": GRID, "axes.labelcolor": QUIET, "text.color": INK,
          "xtick.color": QUIET, "ytick.color": QUIET, "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
          "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True, "svg.fonttype": "none", "svg.hashsalt": "moveline",
          "legend.frameon": False}


def training(history: Sequence[Mapping[str, Any]]) -> str:
    """Loss of training and validation by epoch, and the validation AUC where there is one."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.2, 3.0)
        epochs = [int(row["epoch"]) + 1 for row in history]
        for key, name, colour in (("train_loss", "training", QUIET), ("validate_loss", "validation", COLOURS["model"])):
            values = [row.get(key) for row in history]
            if any(v is not None for v in values):
                axes.plot(epochs, [np.nan if v is None else v for v in values], marker="o", markersize=4, label=name, color=colour)
        axes.set(xlabel="epoch", ylabel="loss", xticks=epochs)
        if epochs:
            axes.legend()
        return _svg(figure)


def roc(curves: Mapping[str, Sequence[Sequence[float]]]) -> str:
    """ROC curves by name of the score."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.0, 3.4)
        axes.plot([0, 1], [0, 1], color=GRID, linewidth=1)
        for name, (false, true) in sorted(curves.items(), key=lambda c: c[0] == "model"):
            width = 2 if name == "model" else 1.2
            axes.plot(false, true, label=name.replace("_", " "), color=COLOURS.get(name, QUIET), linewidth=width)
        axes.set(xlabel="false positive rate", ylabel="true positive rate", xlim=(0, 1), ylim=(0, 1), aspect="equal")
        axes.legend(loc="lower right")
        return _svg(figure)


def calibration(curve: Mapping[str, Sequence[float]]) -> str:
    """Click rate against mean probability of each bin, and how many rows a bin has."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.0, 3.4)
        predicted, clicked = np.array(curve["predicted"]), np.array(curve["clicked"])
        top = 1.08 * max(float(predicted.max(initial=0)), float(clicked.max(initial=0)), 1e-3)
        axes.plot([0, top], [0, top], color=GRID, linewidth=1)
        size = 20 + 40 * np.array(curve["rows"]) / max(max(curve["rows"], default=1), 1)
        axes.scatter(predicted, clicked, s=size, color=COLOURS["model"], alpha=0.8, linewidths=0)
        axes.set(xlabel="predicted probability", ylabel="click rate", xlim=(0, top), ylim=(0, top))
        return _svg(figure)


def by_scenario(scenarios: Mapping[str, Any], metric: str = "auc") -> str:
    """A metric with its interval, a line a scenario, the busiest first."""
    known = [(name, own["metrics"][metric], own["rows"]["items"]) for name, own in scenarios.items()
             if own["metrics"].get(metric, {}).get("value") is not None]
    known = sorted(known, key=lambda row: -row[2])[:25][::-1]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.2, max(1.4, 0.34 * len(known) + 0.8))
        for place, (_, found, _) in enumerate(known):
            if found["low"] is not None:
                axes.plot([found["low"], found["high"]], [place, place], color=COLOURS["model"], linewidth=2, alpha=0.4)
            axes.plot(found["value"], place, "o", color=COLOURS["model"], markersize=5)
        axes.set_yticks(range(len(known)), [f"{name[:28]}  ({items:,})" for name, _, items in known])
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=f"{metric.upper()}, 95 % interval (viewed items)")
        return _svg(figure)


def differences(rows: Sequence[tuple[str, float, float, float]], label: str) -> str:
    """Differences (name, mean, low, high) with their intervals, a line each, beside a line at 0."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.6, max(1.4, 0.34 * len(rows) + 0.8))
        axes.axvline(0.0, color=QUIET, linewidth=1)
        for place, (_, mean, low, high) in enumerate(rows[::-1]):
            axes.plot([low, high], [place, place], color=COLOURS["model"], linewidth=2, alpha=0.4)
            axes.plot(mean, place, "o", color=COLOURS["model"], markersize=5)
        axes.set_yticks(range(len(rows)), [name for name, *_ in rows[::-1]])
        axes.grid(axis="y", visible=False)
        axes.set(xlabel=f"{label}, 95 % interval")
        return _svg(figure)


def over_days(lines: Mapping[str, Mapping[date, float]], label: str, limit: float | None = None) -> str:
    """Values by day, a line a name; the limit as a broken line."""
    colours = [*COLOURS.values()]
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(5.6, 2.8)
        for n, (name, points) in enumerate(sorted(lines.items())):
            days = sorted(points)
            axes.plot([day.toordinal() for day in days], [points[day] for day in days], marker="o", markersize=4, label=name,
                      color=colours[n % len(colours)])
        if limit is not None:
            axes.axhline(limit, color="#b91c1c", linewidth=1, linestyle="--", label=f"limit {limit:g}")
        shown = sorted({day for points in lines.values() for day in points})
        ticks = shown[::max(1, len(shown) // 6)]
        axes.set_xticks([day.toordinal() for day in ticks], [f"{day:%m-%d}" for day in ticks])
        axes.set(ylabel=label)
        axes.legend(fontsize=8)
        return _svg(figure)


def histogram(counts: Mapping[int, int], label: str) -> str:
    """Pages by length (already counted)."""
    with matplotlib.rc_context(_STYLE):
        figure, axes = _figure(4.6, 2.6)
        axes.bar(list(counts), list(counts.values()), width=0.9, color=COLOURS["model"], alpha=0.85)
        axes.set(xlabel=label, ylabel="pages")
        axes.grid(axis="x", visible=False)
        return _svg(figure)


def heat_map(names: Sequence[str], shares: np.ndarray) -> str:
    """Share of the steps out of each scene (row) that lead to each scene (column)."""
    with matplotlib.rc_context({**_STYLE, "axes.grid": False}):
        side = max(2.6, 0.42 * len(names) + 1.2)
        figure, axes = _figure(side + 0.8, side)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=max(float(shares.max(initial=0)), 1e-9), aspect="equal")
        for (row, column), share in np.ndenumerate(shares):
            if share >= 0.005:
                axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=7,
                          color="white" if share > 0.6 * shares.max() else INK)
        axes.set_xticks(range(len(names)), [n[:16] for n in names], rotation=45, ha="right")
        axes.set_yticks(range(len(names)), [n[:16] for n in names])
        axes.set(xlabel="to", ylabel="from")
        return _svg(figure)


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.add_subplot()


def _svg(figure: Figure) -> str:
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None}, transparent=True)
    text = out.getvalue()
    # Inside a page only the <svg> element itself is wanted; ids must not meet those of the next picture.
    text = text[text.index("<svg"):]
    mark = f"f{zlib.crc32(text.encode()):08x}"
    return re.sub(r'(\bid="|href="#|url\(#)([A-Za-z][\w.]*)(?=["\)])', rf"\1{mark}-\2", text)
