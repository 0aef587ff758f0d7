"""Tables on the terminal, and in logs that have no width of their own."""

from typing import Any

from rich.console import Console
from rich.table import Table

_LOG_WIDTH = 150
_WHOLE = ("table", "ds", "first", "last", "reason")
"""Columns whose values are not broken over two lines."""


def console() -> Console:
    """Standard output; a log or a pipe is taken to be wide."""
    found = Console(highlight=False)
    return found if found.is_terminal else Console(highlight=False, width=_LOG_WIDTH)


def grid(title: str, rows: list[dict[str, Any]]) -> Table:
    """A table whose columns are the keys of the first row."""
    table = Table(title=title, title_justify="left")
    for key, value in rows[0].items():
        number = isinstance(value, int | float)
        table.add_column(
            key, justify="right" if number else "left", overflow="fold", no_wrap=number or key in _WHOLE
        )
    for row in rows:
        table.add_row(*(text(v) for v in row.values()))
    return table


def text(value: Any) -> str:
    """A value as people read it: 12,345 and 0.6789; None is empty.

    Examples
    --------
    >>> text(12345), text(0.67891), text(None)
    ('12,345', '0.6789', '')
    """
    if isinstance(value, bool):
        return str(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.4f}"
    return "" if value is None else str(value)
