"""The last days of a champion as one HTML page: a plot a number, with its limit. No network, no script."""

from collections.abc import Iterable, Mapping
from datetime import date, timedelta

from models import report_plots as plots
from models.report import page, table

SPAN = 30
"""Days that the page shows."""

Curves = Mapping[str, Mapping[date, float]]
"""Values of a number by day, by the number's name."""

_ABOUT = {
    "gauc": ("GAUC", "AUC of each user's items, averaged by impressions: 0.5 is chance."),
    "calibration_error": ("Calibration error", "Mean distance of the promised from the true click rate, in bins of equal size."),
    "bias": ("Promised clicks", "Promised over true clicks, minus 1: 0 is right, 0.2 promises a fifth too many."),
    "unknown": ("Unknown items", "Share of the shown items that the version's vocabulary does not have."),
}
_STABILITY, _COUNTS = "stability.", ("pages", "users", "items", "clicks")


def watch_page(name: str, versions: Mapping[int, Curves], last: date, limits: Mapping[str, float]) -> str:
    """The page as HTML text.

    Parameters
    ----------
    versions : number of the version -> what was seen of it. last : the newest day to show. limits : by name of the number.
    """
    first = last - timedelta(SPAN - 1)
    shown = {number: {key: {day: value for day, value in points.items() if first <= day <= last} for key, points in curves.items()}
             for number, curves in versions.items()}
    newest = max((n for n, curves in shown.items() if any(last in points for points in curves.values())), default=0)
    today = {key: points[last] for key, points in shown.get(newest, {}).items() if last in points}
    sections = [(f"Version {newest} on {last}", _numbers(today, limits), "What was found, and the limits of the recipe."),
                *((head, _plot(shown, key, head, limits.get(key)), note) for key, (head, note) in _ABOUT.items()),
                ("Against the day before", _stability(shown.get(newest, {}), limits),
                 "Population stability index: below 0.1 is taken for unchanged, above 0.25 for another population.")]
    counts = {key: int(today[key]) for key in _COUNTS if key in today}
    return page(f"{name}, {first} to {last}", counts, sections)


def beyond(key: str, value: float, limit: float) -> bool:
    """Whether a limit is passed: GAUC has a least value, all others a most.

    Examples
    --------
    >>> beyond("gauc", 0.4, 0.5), beyond("unknown", 0.4, 0.5)
    (True, False)
    """
    return value < limit if key == "gauc" else value > limit


def _numbers(today: Mapping[str, float], limits: Mapping[str, float]) -> str:
    def cells() -> Iterable[tuple[str, str, str, str]]:
        for key, value in sorted(today.items()):
            limit = limits.get(key)
            said = "" if limit is None else "beyond it" if beyond(key, value, limit) else "within"
            yield key, f"{value:,.0f}" if key in _COUNTS else f"{value:.4f}", "" if limit is None else f"{limit:g}", said

    return table(("number", "value", "limit", ""), cells()) if today else ""


def _plot(shown: Mapping[int, Curves], key: str, label: str, limit: float | None) -> str:
    lines = {f"version {number}": curves[key] for number, curves in shown.items() if curves.get(key)}
    return plots.over_days(lines, label, limit) if lines else ""


def _stability(curves: Curves, limits: Mapping[str, float]) -> str:
    lines = {key.removeprefix(_STABILITY).replace("_", " "): points for key, points in curves.items()
             if key.startswith(_STABILITY) and points}
    limit = next((value for key, value in limits.items() if key.startswith(_STABILITY)), None)
    return plots.over_days(lines, "stability index", limit) if lines else ""
