"""What a day costs at a million to a billion users, and which part breaks first: arithmetic on measured figures alone.

    PYTHONPATH=. python benchmarks/cost_model.py [--items 100000000] [--dim 32] [--measured benchmarks/measured.json]

`measured.json` holds the JSON lines that `day_cost.py` (two sizes), `train.py` and `ranks.py` printed, and single figures of
docs/benchmarks.md. What a user costs is the difference of both sizes over the difference of their users; what is left is what a job
costs however little it does. Prints the tables of docs/scale.md with the arithmetic beside them and, on the last line, JSON.
"""

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.plots import bars
from jobs.train import SHARDS
from models.embeddings import capacity

SCALES = (1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
HOURS = 4
"""Hours a day that the tables, and the training, may each take."""
TRAIN_DAYS, KEPT_DAYS = 2, 30
"""Days that a training reads, and days that the lake keeps."""
COPIES = 3
"""Whole tables a rank holds when an epoch ends: its own, the best epoch's, and the next best while it is gathered."""
_FLOAT, _DAY = 4, 86_400.0


@dataclass(frozen=True)
class Line:
    """A cost: so much however few users there are, and so much a user and day."""

    fixed: float
    slope: float

    @classmethod
    def through(cls, sizes: tuple[int, int], costs: tuple[float, float]) -> "Line":
        """The line through two measured sizes."""
        slope = (costs[1] - costs[0]) / (sizes[1] - sizes[0])
        return cls(costs[0] - slope * sizes[0], slope)

    def at(self, users: float) -> float:
        """The cost at a number of users."""
        return max(self.fixed, 0.0) + self.slope * users


class Model:
    """The measured figures, and what follows from them.

    Parameters
    ----------
    measured : content of measured.json. items : items of the shop. dim : columns of the embedding tables.
    """

    def __init__(self, measured: Mapping[str, Any], items: int, dim: int) -> None:
        self.measured, self.items, self.dim = measured, items, dim
        self.small, self.large = measured["day"]
        self.sizes = (self.small["users"], self.large["users"])
        rows = self.large["rows"]
        self.events, self.shown, self.pages = (rows[name] / self.sizes[1] for name in ("events", "exposures", "pages"))
        self.cpu, self.shuffled, self.read = ({name: self.line("jobs", name, key) for name in self.small["jobs"]}
                                              for key in ("cpu_s", "shuffled", "read"))
        self.bytes = {name: self.line("bytes", name) for name in self.small["bytes"] if name != "vocabulary"}
        self.step = measured["train"]["cpu_a_item_us"] * 1e-6

    def line(self, *path: str) -> Line:
        """A measured figure of both sizes as a line over users."""
        small, large = self.small, self.large
        for key in path:
            small, large = small[key], large[key]
        return Line.through(self.sizes, (small, large))

    @property
    def row_bytes(self) -> int:
        """Bytes of a row of a table: its columns, and one float of row-wise Adagrad."""
        return _FLOAT * (self.dim + 1)

    @property
    def table_bytes(self) -> float:
        """Bytes of the item table with its headroom, all ranks together."""
        return float(capacity(self.items) * self.row_bytes)

    def daily(self, users: float) -> dict[str, float]:
        """What a day costs."""
        tables = [name for name in self.cpu if name != "encode"]
        cpu, lake = sum(self.cpu[name].at(users) for name in tables), sum(line.at(users) for line in self.bytes.values())
        shown, encoded = self.shown * users, self.large["encoded"]
        train = TRAIN_DAYS * shown * self.step
        return {
            "events": self.events * users, "shown items": shown, "raw TB": self.line("raw_bytes").at(users) / 1e12,
            "lake TB": lake / 1e12, f"lake TB, {KEPT_DAYS} days": KEPT_DAYS * lake / 1e12,
            "read TB": sum(self.read[name].at(users) for name in tables) / 1e12,
            "shuffled TB": sum(self.shuffled[name].at(users) for name in tables) / 1e12,
            "tables: CPU hours": cpu / 3600, f"tables: cores for {HOURS} h": cpu / 3600 / HOURS,
            "encode: CPU hours": self.cpu["encode"].at(users) / 3600 * (TRAIN_DAYS + 1) / 2,
            "encoded TB": encoded["bytes"] / encoded["items"] * (TRAIN_DAYS + 1) * shown / 1e12,
            "train: CPU hours an epoch": train / 3600, f"train: cores for {HOURS} h": train / 3600 / HOURS,
            "judge: CPU hours": self.line("judge", "cpu_s").at(users) / 3600,
            "judge: GB in one process": self.line("judge", "memory").at(users) / 1e9,
        }

    def limits(self, cores: int, memory: float) -> list["Limit"]:
        """Where each part is at its end on a machine of so many cores and bytes."""
        words, rest = self.measured["vocabulary_bytes_an_id"], self.measured["rest_requests_s_a_core"]
        judge, ranks = self.line("judge", "memory").slope, min(cores, SHARDS)
        cpu = sum(line.slope for name, line in self.cpu.items() if name != "encode")
        epoch, row = self.step * self.shown * TRAIN_DAYS, COPIES * self.table_bytes / self.items
        held, day = f"{memory / 1e9:.0f} GB", "86,400 s"
        return [
            Limit("REST, one server", rest * cores * _DAY / self.pages,
                  f"{cores} cores x {rest:.0f} requests/s x {day} / {self.pages:.2f} pages a user"),
            Limit("judge, one process", memory / judge, f"{held} / {judge:,.0f} bytes a user"),
            Limit("tables, local Spark", cores * _DAY / cpu, f"{cores} cores x {day} / {1e3 * cpu:.2f} CPU ms a user"),
            Limit(f"train, at most {SHARDS} ranks", ranks * _DAY / epoch,
                  f"{ranks} ranks x {day} / {1e3 * epoch:.2f} CPU ms a user and epoch"),
            Limit("items: vocabulary in each worker", memory / (cores + 1) / words,
                  f"{held} / ({cores} workers and the driver) / {words:.0f} bytes an id"),
            Limit("items: whole model in a rank", memory / row, f"{held} / {row:.0f} bytes an item ({COPIES} copies)"),
        ]


@dataclass(frozen=True)
class Limit:
    """Users (of `items:` items) at which a part is at its end, and the arithmetic."""

    part: str
    value: float
    how: str


def human(value: float) -> str:
    """A number of a table in three digits."""
    for size, unit in ((1e9, " G"), (1e6, " M")):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def show(model: Model) -> dict[str, Any]:
    """Print the tables; what the JSON line says."""
    print(f"a user and day: {model.events:.1f} events, {model.shown:.1f} shown items on {model.pages:.2f} pages; "
          f"measured at {model.sizes[0]:,} and {model.sizes[1]:,} users")
    print(f"\n{'job':12}{'CPU ms a user':>15}{'fixed CPU s':>13}{'shuffled B a user':>19}{'read B a user':>15}")
    for name, line in model.cpu.items():
        moved = f"{model.shuffled[name].slope:19,.0f}{model.read[name].slope:15,.0f}"
        print(f"{name:12}{1e3 * line.slope:15.2f}{line.fixed:13.1f}{moved}")
    print("bytes a user: " + ", ".join(f"{name} {line.slope:,.0f}" for name, line in model.bytes.items()))
    days = {users: model.daily(users) for users in SCALES}
    print("\n" + f"{'users':28}" + "".join(f"{human(users):>10}" for users in SCALES))
    for name in days[SCALES[0]]:
        print(f"{name:28}" + "".join(f"{human(days[users][name]):>10}" for users in SCALES))
    print(f"\nitem table: {human(model.items)} items, dim {model.dim}: {capacity(model.items):,} rows x {model.row_bytes} bytes = "
          f"{model.table_bytes / 1e9:.1f} GB")
    found = {f"{cores} cores, {memory / 1e9:.0f} GB": model.limits(cores, memory) for cores, memory in ((2, 24e9), (64, 512e9))}
    for machine, limits in found.items():
        print(f"\nat its end on {machine}:")
        for own in sorted(limits, key=lambda limit: limit.value):
            print(f"  {own.part:36}{human(own.value):>9}   {own.how}")
    return {"daily": {str(users): own for users, own in days.items()}, "table_bytes": model.table_bytes,
            "limits": {machine: {own.part: own.value for own in limits} for machine, limits in found.items()}}


def main() -> None:
    """Compute and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=100_000_000, help="items of the shop: not measured, to be set")
    parser.add_argument("--dim", type=int, default=32)
    parser.add_argument("--measured", type=Path, default=Path(__file__).with_name("measured.json"))
    parser.add_argument("--plot", type=Path, help="SVG file to draw into where each part is at its end")
    asked = parser.parse_args()
    found = show(Model(json.loads(asked.measured.read_text()), asked.items, asked.dim))
    if asked.plot:
        groups = {machine: dict(sorted(own.items(), key=lambda limit: limit[0])) for machine, own in found["limits"].items()}
        bars(groups, "users (or items) at which it is at its end", asked.plot, ours="items", log=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
