"""What a lake holds, as plain rows: for the command line and the end of the demo."""

from collections.abc import Iterable
from typing import Any

from feature_store.contracts import CONTRACTS
from feature_store.tables import DayCommit, Lake, Table


def commits(table: Table) -> list[DayCommit]:
    """Newest commit of each day that was ever written (days that are now empty included), ascending."""
    if not table.exists():
        return []
    import json

    delta = table.open()
    days: set[str] = set()
    for entry in delta.history():
        app = entry.get("moveline.partition")
        if app:
            days.update(p.removeprefix("ds=") for p in app.split("/") if p.startswith("ds="))
    if table.contract.partition == ("ds",):
        return [c for d in sorted(days) if (c := table.day(d, delta)) is not None]
    found: dict[str, DayCommit] = {}
    for entry in delta.history():  # newest first
        app = entry.get("moveline.partition")
        if app and app not in found:
            keys = [k for k in DayCommit.__dataclass_fields__ if k != "version"]
            found[app] = DayCommit(version=int(entry["version"]), **{k: json.loads(entry[f"moveline.{k}"]) for k in keys})
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


def days_of(lake: Lake, name: str, ds: str | None) -> list[dict[str, Any]]:
    """One row a day of one table."""
    first, _, last = (ds or "").partition("..")
    known = [c for c in commits(lake.table(name)) if not ds or first <= c.ds <= (last or first)]
    return [{"ds": c.ds, **_sums([c]), "version": c.version, "digest": c.digest[:12], "code": c.revision} for c in known]


def _sums(known: list[DayCommit]) -> dict[str, int]:
    rejected = sum(n for c in known for reason, n in c.counts.items() if reason.startswith("reject."))
    return {"in": sum(c.counts.get("in", 0) for c in known), "rows": sum(c.rows for c in known), "rejected": rejected}


def reject_reasons(lake: Lake, days: Iterable[str] | None) -> list[dict[str, Any]]:
    """One row a day, table and reason: how many rows were refused, and the key of one of them."""
    table = lake.table("rejects")
    found = table.read_arrow(days, ["ds", "origin", "reason", "row_key"])
    if not found.num_rows:
        return []
    groups = found.group_by(["ds", "origin", "reason"]).aggregate([("row_key", "count"), ("row_key", "min")])
    rows = [
        {
            "ds": r["ds"],
            "table": r["origin"],
            "reason": r["reason"],
            "rows": r["row_key_count"],
            "for example": r["row_key_min"][:60],
        }
        for r in groups.to_pylist()
    ]
    return sorted(rows, key=lambda r: (r["ds"], r["table"], -r["rows"]))
