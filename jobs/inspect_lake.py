"""What a lake holds, as plain rows: for the command line and the end of the demo."""

from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any
from urllib.parse import unquote

import pyarrow.compute as pc
import pyarrow.dataset as pads

from feature_store.contracts import CONTRACTS
from feature_store.day_commits import DayCommit, newest_first
from feature_store.tables import Lake, Table

_ROWS_AT_ONCE = 4_096
_KEY_CHARS, _ROW_CHARS = 60, 400

def commits(table: Table) -> list[DayCommit]:
    """Newest commit of each day that was ever written (days that are now empty included), ascending."""
    if not table.exists():
        return []
    found: dict[str, DayCommit] = {}
    for name, own in newest_first(table.open()):
        found.setdefault(name, own)
    return sorted(found.values(), key=lambda c: c.ds)


def overview(lake: Lake) -> list[dict[str, Any]]:
    """One row a table: its days, rows, what came in, went out and was refused, its version."""
    rows = []
    for name in CONTRACTS:
        known = commits(lake.table(name))
        if not known:
            continue
        rows.append({
            "table": name, "days": len({c.ds for c in known}), "first": known[0].ds, "last": known[-1].ds,
            **_sums(known), "version": max(c.version for c in known),
        })
    return rows


def days_of(lake: Lake, name: str, days: Collection[str] | None) -> list[dict[str, Any]]:
    """One row a day of one table, of some days or (None) of all."""
    known = [c for c in commits(lake.table(name)) if days is None or c.ds in days]
    return [{"ds": c.ds, **_sums([c]), "version": c.version, "digest": c.digest[:12], "code": c.revision} for c in known]


def _sums(known: list[DayCommit]) -> dict[str, int]:
    rejected = sum(n for c in known for reason, n in c.counts.items() if reason.startswith("reject."))
    return {"in": sum(c.counts.get("in", 0) for c in known), "rows": sum(c.rows for c in known), "rejected": rejected}


def reject_reasons(lake: Lake, days: Iterable[str] | None) -> list[dict[str, Any]]:
    """One row a day, table and reason: how many rows were refused, and the first of them (by key) as it came in, cut.

    Files are read some rows at a time: memory does not grow with the number of rejects.
    """
    table = lake.table("rejects")
    counts: Counter[tuple[str, str, str]] = Counter()
    first: dict[tuple[str, str, str], tuple[str, str]] = {}
    for file in table.files(days) if table.exists() else []:
        parts = {key: unquote(value) for key, _, value in (part.partition("=") for part in file.split("/"))}
        source, own = pads.dataset(file, format="parquet"), Counter[str]()
        for batch in source.to_batches(columns=["reason"], batch_size=_ROWS_AT_ONCE):
            own.update({found["values"]: found["counts"] for found in batch.column("reason").value_counts().to_pylist()})
        for reason, count in own.items():
            place = (parts["ds"], parts["origin"], reason)
            top = source.head(1, columns=["row_key", "row"], filter=pc.field("reason") == reason, batch_size=_ROWS_AT_ONCE)
            found = (top["row_key"][0].as_py(), top["row"][0].as_py())
            counts[place] += count
            first[place] = min(first.get(place, found), found)
    ordered = sorted(counts, key=lambda place: (*place[:2], -counts[place], place[2]))
    return [{"ds": ds, "table": origin, "reason": reason, "rows": counts[ds, origin, reason],
             "key": _cut(first[ds, origin, reason][0], _KEY_CHARS), "for example": _cut(first[ds, origin, reason][1], _ROW_CHARS)}
            for ds, origin, reason in ordered]


def _cut(text: str, chars: int) -> str:
    return text if len(text) <= chars else f"{text[:chars]}..."
