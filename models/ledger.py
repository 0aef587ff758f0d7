"""The ledger: every change of an alias of a registered model, in order, never changed afterwards.

It is a Delta table beside the lake, and not a record inside MLflow: MLflow sets an alias whatever it was before, so that of two
promotions at once both would win, and each of its tags can be overwritten. A commit to a Delta log happens once or not at all.
"""

import getpass
import json
import os
import socket
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Transaction, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from feature_store.errors import ConflictError, ModelError
from feature_store.home import ledger_root

NOBODY = 0
"""Stands for the version of an alias that is not set."""

PROMOTE, ROLLBACK, DEPLOY, OUTSIDE = "promote", "rollback", "deploy", "outside"
"""What an entry says was done; `outside`: the alias was found changed by something else than moveline."""

SCHEMA = pa.schema([
    ("model", pa.string()), ("alias", pa.string()), ("born", pa.int64()), ("entry", pa.int64()), ("action", pa.string()),
    ("from_version", pa.int64()), ("to_version", pa.int64()), ("reason", pa.string()), ("numbers", pa.string()),
    ("by", pa.string()), ("time", pa.timestamp("us", tz="UTC")),
])
_ATTEMPTS = 30
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
_KEEP_LOG = {"delta.appendOnly": "true", "delta.enableExpiredLogCleanup": "false",
             "delta.logRetentionDuration": "interval 36500 days"}


@dataclass(frozen=True)
class Change:
    """A change of an alias that somebody wants: from which version, to which, and why (`NOBODY`: not set)."""

    action: str
    from_version: int
    to_version: int
    reason: str
    numbers: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Entry(Change):
    """A change that was made.

    Attributes
    ----------
    model, alias : of which. entry : its number among those of this alias, from 1. by : user, machine and, in Airflow, the run.
    """

    model: str = ""
    alias: str = ""
    entry: int = 0
    by: str = ""
    time: datetime = datetime.min


@dataclass(frozen=True)
class Line:
    """The entries of one alias of one model.

    Attributes
    ----------
    born : when the model was first registered, which tells it from one of the same name in another or an emptied registry.
    """

    model: str
    alias: str
    born: int
    path: str

    def entries(self) -> list[Entry]:
        """All entries, oldest first."""
        return read(self.path, self.model, self.alias, self.born)

    def append(self, change: Change, after: int) -> Entry:
        """Write a change as entry `after` + 1.

        Raises
        ------
        ConflictError : there are more than `after` entries: somebody else was first, and nothing was written.
        ModelError : the ledger cannot be written.
        """
        made = Entry(**vars(change), model=self.model, alias=self.alias, entry=after + 1, by=author(), time=datetime.now(UTC))
        trouble = self._commit(made)
        if made in self.entries():
            return made
        if trouble:
            raise ModelError(f"the ledger at {self.path} cannot be written, nothing was changed: {trouble}")
        raise ConflictError(f"{self.model}: alias {self.alias} was changed by somebody else meanwhile and nothing by us; look at "
                            "`moveline history` and decide again")

    def _commit(self, made: Entry) -> str:
        """Try until the entry is there or another one has its number; why it could not be written, if so."""
        row = {**vars(made), "numbers": json.dumps(dict(made.numbers), sort_keys=True), "born": self.born}
        rows, name, trouble = pa.Table.from_pylist([row], schema=SCHEMA), f"{self.model}@{self.alias}#{self.born}", ""
        for attempt in range(_ATTEMPTS):
            table = opened(self.path)
            if (table.transaction_version(name) or 0) >= made.entry:
                return ""
            # Without retries of its own: a commit that was refused (any other alias' may be the reason) is looked at again.
            properties = CommitProperties(max_commit_retries=0, app_transactions=[Transaction(name, made.entry)])
            try:
                write_deltalake(table, rows, mode="append", commit_properties=properties, post_commithook_properties=_HOOKS)
            except (CommitFailedError, DeltaError) as error:
                trouble = str(error).splitlines()[0]
                time.sleep(min(0.5, 0.02 * 2**attempt))
            else:
                return ""
        return trouble


def opened(path: str) -> DeltaTable:
    """The ledger at a path; made when there is none."""
    if not DeltaTable.is_deltatable(path):
        if "://" not in path:
            Path(path).mkdir(parents=True, exist_ok=True)
        with suppress(DeltaError):  # another process made it meanwhile
            DeltaTable.create(path, SCHEMA, mode="ignore", configuration=_KEEP_LOG, description="one change of an alias")
    return DeltaTable(path)


def read(path: str | None = None, model: str = "", alias: str = "", born: int | None = None) -> list[Entry]:
    """Entries of the ledger by time, of one model, alias or birth when given."""
    path = path or ledger_root()
    if not DeltaTable.is_deltatable(path):
        return []
    rows = [r for r in DeltaTable(path).to_pyarrow_table().to_pylist()
            if model in ("", r["model"]) and alias in ("", r["alias"]) and born in (None, r["born"])]
    return sorted((_entry(r) for r in rows), key=lambda e: (e.time, e.model, e.alias, e.entry))


def _entry(row: dict[str, Any]) -> Entry:
    return Entry(**{**{k: v for k, v in row.items() if k != "born"}, "numbers": json.loads(row["numbers"])})


def champions(entries: Iterable[Entry]) -> list[int]:
    """The versions that an alias stood on, one above the other: a rollback takes away what lies above its target.

    Examples
    --------
    >>> steps = [(PROMOTE, 0, 1), (PROMOTE, 1, 2), (PROMOTE, 2, 3), (ROLLBACK, 3, 2)]
    >>> champions(Entry(action, old, new, "") for action, old, new in steps)
    [1, 2]
    """
    stack: list[int] = []
    for entry in entries:
        if entry.action == ROLLBACK and entry.to_version in stack:
            del stack[stack.index(entry.to_version) + 1:]
        elif entry.to_version != NOBODY:
            stack = [*(v for v in stack if v != entry.to_version), entry.to_version]
    return stack


def author() -> str:
    """Who runs this: user@machine, and the graph's run when Airflow started it."""
    try:
        who = getpass.getuser()
    except (KeyError, OSError):  # a container's user may have no name
        who = str(os.getuid())
    graph, run = (os.environ.get(f"AIRFLOW_CTX_DAG_{key}", "") for key in ("ID", "RUN_ID"))
    return f"{who}@{socket.gethostname()}" + (f", {graph} {run}" if run else "")
