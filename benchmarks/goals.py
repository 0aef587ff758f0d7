"""How what was measured stands to the goals: the first table of docs/benchmarks.md and its picture, from `benchmarks/goals.yaml`.

    PYTHONPATH=. python benchmarks/goals.py
"""

from dataclasses import dataclass
from typing import Any

import yaml

from benchmarks.plots import around_goals
from benchmarks.side_by_side import ROOT

SOURCE, PAGE, PICTURE = ROOT / "benchmarks/goals.yaml", ROOT / "docs/benchmarks.md", ROOT / "docs/pictures/goals.svg"
BEGIN, END = "<!-- goals: made by benchmarks/goals.py -->\n", "<!-- end of goals -->\n"


@dataclass(frozen=True)
class Measured:
    """A figure beside its goal.

    Attributes
    ----------
    at_least : whether more is better. date : YYYY-MM-DD.
    """

    benchmark: str
    what: str
    measured: float
    goal: float
    at_least: bool
    date: str

    @classmethod
    def of(cls, row: dict[str, Any]) -> "Measured":
        """From an entry of the file, which has one of `at least` and `at most`."""
        [kind] = {"at least", "at most"} & row.keys()
        return cls(row["benchmark"], row["what"], row["measured"], row[kind], kind == "at least", str(row["date"]))

    @property
    def reached(self) -> bool:
        """Whether the figure is on the right side of the goal."""
        return self.times >= 1

    @property
    def times(self) -> float:
        """How many times as good as the goal."""
        return self.measured / self.goal if self.at_least else self.goal / self.measured


def known() -> list[Measured]:
    """All entries of the file."""
    return [Measured.of(row) for row in yaml.safe_load(SOURCE.read_text())]


def table(rows: list[Measured]) -> str:
    """In Markdown."""
    head = "| benchmark | what | measured | goal | | date |\n| --- | --- | --- | --- | --- | --- |\n"
    return head + "".join(f"| `{own.benchmark}` | {own.what} | {own.measured:g} | {'≥' if own.at_least else '≤'} {own.goal:g} | "
                          f"{'reached' if own.reached else '**missed**'} | {own.date} |\n" for own in rows)


def main() -> None:
    """Bring page and picture up to date."""
    rows, text = known(), PAGE.read_text()
    before, _, rest = text.partition(BEGIN)
    PAGE.write_text(before + BEGIN + table(rows) + END + rest.partition(END)[2])
    around_goals({f"{own.benchmark}: {own.what}": own.times for own in rows}, PICTURE)


if __name__ == "__main__":
    main()
