"""An encoded set: Parquet files of encoded pages, pairs or flows, with a manifest that names their bytes."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

from feature_store.encoding import ENCODED_FLOWS, ENCODED_PAGES, ENCODED_PAIRS
from feature_store.errors import TableError
from feature_store.negatives import POOL

MANIFEST = "manifest.json"
Kind = Literal["pages", "pairs", "flows"]
"""What a row of a set is."""

_SCHEMAS = {"pages": ENCODED_PAGES, "pairs": ENCODED_PAIRS, "flows": ENCODED_FLOWS}


@dataclass(frozen=True)
class EncodedFile:
    """One Parquet file. items : shown items of its pages (its rows, for pairs; its futures, for flows). digest : start of the
    bytes' SHA-256."""

    name: str
    bytes: int
    rows: int
    items: int
    digest: str


@dataclass(frozen=True)
class EncodedSet:
    """Pages, pairs or flows of one window of time, encoded by one vocabulary.

    Attributes
    ----------
    folder : where the files lie. name : the window, e.g. `train`. kind : what a row is. key : digest of all it was made from.
    table_rows : embedding table -> rows it needs at least; every index is below. vocabulary : digest of the vocabulary used.
    table, version, days : the lake table read, its version, and the days. counts : rows in, out, and excluded by name.
    first_time, last_time : unix microseconds of the first cut, and of the last cut (of flows: of the last future); 0 without rows.
    pool_digest : start of the SHA-256 of the pool of future items; empty without one.
    """

    folder: str
    name: str
    kind: Kind
    key: str
    files: tuple[EncodedFile, ...]
    table_rows: Mapping[str, int]
    vocabulary: str
    table: str
    version: int
    days: tuple[str, ...]
    counts: Mapping[str, int] = field(default_factory=dict)
    first_time: int = 0
    last_time: int = 0
    pool_digest: str = ""

    @property
    def rows(self) -> int:
        """Pages (or pairs, or flows)."""
        return sum(f.rows for f in self.files)

    @property
    def items(self) -> int:
        """Shown items of all pages (pairs, for pairs; futures, for flows)."""
        return sum(f.items for f in self.files)

    @property
    def paths(self) -> list[str]:
        """Paths of the files, in a fixed order."""
        return [f"{self.folder}/{f.name}" for f in self.files]

    @property
    def pool(self) -> str:
        """Path of the pool of future items (`negatives.Pool`); flows alone have one."""
        return f"{self.folder}/{POOL}"

    @property
    def digest(self) -> str:
        """Digest of the bytes of all files."""
        return hashlib.sha256(" ".join(f.digest for f in self.files).encode()).hexdigest()[:32]

    def read(self, columns: list[str] | None = None) -> pa.Table:
        """All rows in order, without shuffling (for evaluation and reports); columns of its `ENCODED_...` schema."""
        whole = _SCHEMAS[self.kind]
        schema = whole if columns is None else pa.schema([whole.field(c) for c in columns])
        return pa.concat_tables([schema.empty_table(), *(pq.read_table(p, columns=schema.names).cast(schema) for p in self.paths)])

    def verify(self) -> None:
        """Compare every file with the manifest. Raises TableError naming the first that is missing or changed."""
        wanted = {f.name: f.digest for f in self.files} | ({POOL: self.pool_digest} if self.pool_digest else {})
        for name, digest in wanted.items():
            path = Path(self.folder) / name
            if not path.is_file() or file_digest(path) != digest:
                raise TableError(f"{path}: missing or changed since it was encoded; delete {self.folder} and encode again")

    def save(self) -> None:
        """Write the manifest into the folder."""
        content = {k: v for k, v in asdict(self).items() if k != "folder"}
        text = json.dumps({**content, "rows": self.rows, "items": self.items}, indent=1, sort_keys=True)
        (Path(self.folder) / MANIFEST).write_text(text)

    @classmethod
    def load(cls, folder: str | Path) -> "EncodedSet":
        """Read a manifest. Raises TableError when there is none or it is not legible."""
        try:
            content = json.loads((Path(folder) / MANIFEST).read_text())
            content = {k: content[k] for k in cls.__dataclass_fields__ if k != "folder"}
            files = tuple(EncodedFile(**f) for f in content.pop("files"))
            return cls(str(folder), files=files, days=tuple(content.pop("days")), **content)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise TableError(f"{folder}: no legible {MANIFEST}; delete the folder and encode again") from error


def file_digest(path: Path) -> str:
    """First 32 hex digits of the SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:32]
