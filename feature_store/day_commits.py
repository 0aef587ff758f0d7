"""What commits of a Delta log say of the days they wrote, read from the newest back and no further than needed.

A table has a commit a day and build: read whole, and often, its log would cost a day more the longer the history is.
"""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from deltalake import DeltaTable

_FIRST_LOOK = 4
"""Commits read at first; each further look back reads four times as many."""
_THEN_ASK, _FEW = 16, 8
"""After so many commits, days not found yet are asked for by their transaction, if they are few: an absent one is in no commit."""


@dataclass(frozen=True)
class DayCommit:
    """What the newest commit of one day says about itself.

    Attributes
    ----------
    ds : the day. version : table version of the commit. rows : rows of the day.
    digest : digest of the day's rows, the same for any file layout. fingerprint : digest of everything it was made from.
    counts : row accounting, e.g. {"in": 10, "out": 9, "reject.null_user_id": 1}. written_at : unix seconds.
    """

    ds: str
    version: int
    rows: int
    digest: str
    fingerprint: str
    counts: dict[str, int] = field(default_factory=dict)
    inputs: dict[str, str] = field(default_factory=dict)
    revision: str = ""
    written_at: float = 0.0

    def made_from(self, inputs: Mapping[str, str]) -> bool:
        """Whether the day was built from exactly these inputs."""
        return self.fingerprint == fingerprint(inputs)


def fingerprint(parts: Mapping[str, Any]) -> str:
    """Digest of a mapping of plain values, independent of the order of its keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:32]


def partition_name(partition: Mapping[str, str]) -> str:
    """How a commit (and its application transaction) names what it wrote.

    Examples
    --------
    >>> partition_name({"origin": "pages", "ds": "2026-03-02"})
    'ds=2026-03-02/origin=pages'
    """
    return "/".join(f"{k}={v}" for k, v in sorted(partition.items()))


def noted(commit: DayCommit, partition: str) -> dict[str, str]:
    """What a commit keeps of itself in the log."""
    return {**{f"moveline.{k}": json.dumps(v) for k, v in vars(commit).items() if k != "version"}, "moveline.partition": partition}


def newest_first(delta: DeltaTable) -> Iterator[tuple[str, DayCommit]]:
    """The name of the partition and the commit of a day, for every such commit; the log is read as far back as this is iterated.

    `delta` is brought to the version at which the log was read.
    """
    last, look = math.inf, _FIRST_LOOK
    while True:
        entries = _end_of_log(delta, look)
        for entry in entries:
            if entry["version"] >= last:  # of the look before, or committed since
                continue
            last = entry["version"]
            if name := entry.get("moveline.partition"):
                yield name, _day_commit(entry)
        if len(entries) < look:
            return
        look *= 4


def newest_commit(delta: DeltaTable, partition: str, digest: str = "") -> DayCommit | None:
    """The newest commit of a partition (of this digest, when one is given)."""
    if delta.transaction_version(partition) is None:  # never written: the whole log would be read to find nothing
        return None
    return next((own for name, own in newest_first(delta) if name == partition and digest in ("", own.digest)), None)


def newest_commits(delta: DeltaTable, partitions: Iterable[str]) -> dict[str, DayCommit]:
    """The newest commit of each partition that has one."""
    found, left = dict[str, DayCommit](), set(partitions)
    for seen, (name, own) in enumerate(newest_first(delta), 1) if left else ():
        if name in left:
            found[name] = own
            left.remove(name)
        if seen == _THEN_ASK and len(left) <= _FEW:
            left = {partition for partition in left if delta.transaction_version(partition) is not None}
        if not left:
            break
    return found


def _end_of_log(delta: DeltaTable, look: int) -> list[dict[str, Any]]:
    """The last `look` commits. `history` reads the log as it is now and numbers it from the version of `delta`: both must agree."""
    while True:
        entries, version = delta.history(look), delta.version()
        delta.update_incremental()
        if delta.version() == version:
            return entries


def _day_commit(entry: Mapping[str, Any]) -> DayCommit:
    keys = [k for k in DayCommit.__dataclass_fields__ if k != "version"]
    return DayCommit(version=int(entry["version"]), **{k: json.loads(entry[f"moveline.{k}"]) for k in keys})
