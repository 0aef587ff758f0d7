"""Delta tables without a JVM jar: Spark or its Python workers write Parquet files, one commit to the Delta log makes them visible.

A day is replaced as a whole and in one atomic step. A commit carries what made it (row counts, fingerprint of its
inputs, digest of its content, code revision) and an application transaction for its day, so that of two writers of
one day one wins and the other gets a `ConflictError`, on a first write as well as on a rewrite.
"""

import json
import re
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import reduce
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote

import pyarrow as pa
from deltalake import CommitProperties, DeltaTable, PostCommitHookProperties, Schema, Transaction
from deltalake.exceptions import CommitFailedError, DeltaError, TableNotFoundError
from deltalake.transaction import AddAction
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import CONTRACTS, Contract
from feature_store.day_commits import DayCommit, fingerprint, newest_commit, newest_commits, noted, partition_name
from feature_store.errors import ConflictError, TableError, used_up
from feature_store.kept import Kept
from feature_store.revision import code_revision
from feature_store.row_digest import digest_of_files, row_digest
from feature_store.session import spark_schema
from feature_store.worker_rows import WorkerRows

_LOG = {"delta.logRetentionDuration": "interval 36500 days", "delta.enableExpiredLogCleanup": "false",
        "delta.checkpointInterval": "10"}
"""Every commit is kept; a table (of those made since this was set) opens from a checkpoint and at most ten of them."""

_ATTEMPTS = 6
_FOLDER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_HOOKS = PostCommitHookProperties(create_checkpoint=True, cleanup_expired_logs=False)
Counting = Callable[[DataFrame, Mapping[str, int]], Mapping[str, int]]
"""Row accounting of a day, from its rows as they lie on disk and what the workers counted beside them."""


class DayWriter:
    """One attempt to replace one day; made by `Table.begin` *before* anything is read, so that conflicts are seen.

    Attributes
    ----------
    before : the newest commit of the day then, or None when it was never written.
    """

    def __init__(self, table: "Table", partition: Mapping[str, str], delta: DeltaTable) -> None:
        self.table = table
        self.partition = dict(partition)
        self._delta = delta
        self._app = partition_name(partition)
        # A serial table has one more application transaction, which every day's commit counts up.
        names = [self._app, "every day"] if table.contract.serial else [self._app]
        self._next = {name: (delta.transaction_version(name) or 0) + 1 for name in names}
        self.before = newest_commits(delta, [self._app]).get(self._app) if self._next[self._app] > 1 else None

    def commit(self, rows: DataFrame | WorkerRows, *, counts: Mapping[str, int] | Counting,
               inputs: Mapping[str, str], arranged: bool = False) -> DayCommit:
        """Write rows as the new content of the day and make it visible.

        Parameters
        ----------
        rows : the day's rows, with every column of the contract that is not a partition's.
        counts : row accounting, kept in the commit; or a function of the rows as they lie on disk, called before they are visible,
            and of what `WorkerRows` counted beside them.
        inputs : what the day was made from (kept in the commit; see `DayCommit.made_from`).
        arranged : a frame already has its final partitioning and order, as `WorkerRows` have; else its rows are spread by the
            first sort column.

        Raises
        ------
        ConflictError : another writer committed this day since `begin`. TableError : the rows do not meet the contract.
        """
        self._check(rows)
        written = self._written_by_workers(rows) if isinstance(rows, WorkerRows) else self._written_by_spark(rows, arranged)
        commit = self._summary(written, counts(written.rows, written.beside) if callable(counts) else counts, inputs)
        previous = self.before
        if previous and (previous.digest, previous.fingerprint, previous.rows) == (commit.digest, commit.fingerprint, commit.rows):
            if self._overtaken(self.table.open()):
                raise self._conflict()
            return previous
        return self._publish(written, commit)

    def rewrite(self, frame: DataFrame) -> DayCommit:
        """Write the rows that the day has in other files; all that its newest commit says of them stays.

        Raises
        ------
        TableError : the day was never written, or these are not its rows. ConflictError : as `commit`.
        """
        self._check(frame)
        written = self._written_by_spark(frame, arranged=True)
        if self.before is None or written.digest != self.before.digest:
            raise TableError(f"table {self.table.contract.name}, {self._app}: what was read is not what its newest commit wrote; "
                             "nothing was changed, build the day again")
        return self._publish(written, replace(self.before, written_at=time.time()))

    def _check(self, rows: DataFrame | WorkerRows) -> None:
        found = rows.schema.names
        missing = [f.name for f in self._stored if f.name not in found]
        if missing:
            raise TableError(f"table {self.table.contract.name}: the rows to write lack the columns {', '.join(missing)}")

    @property
    def _stored(self) -> pa.Schema:
        """The columns that files hold: the folders hold those of the partition."""
        contract = self.table.contract
        return lenient(pa.schema([f for f in contract.schema if f.name not in contract.partition]))

    def _folder(self) -> str:
        return "/".join(f"{k}={quote(v)}" for k, v in self._ordered()) + f"/run={uuid.uuid4().hex}"

    def _written_by_workers(self, rows: WorkerRows) -> "_Written":
        if "://" in self.table.path:  # Spark reaches any file system; a worker only what is mounted
            with Kept() as kept:  # what counts beside its rows makes both at once
                every = kept.keep(rows.with_counts) if rows.beside else rows.frame
                written = self._written_by_spark(rows.rows_of(every), arranged=True)
                return replace(written, beside=rows.counts_of(every))
        folder = self._folder()
        names, beside = rows.write(Path(self.table.path) / folder, self._stored)
        paths = [f"{self.table.path}/{folder}/{name}" for name in names]
        return replace(self._read_back(rows.source.sparkSession, folder, paths), beside=beside)

    def _written_by_spark(self, frame: DataFrame, arranged: bool) -> "_Written":
        contract, folder = self.table.contract, self._folder()
        if not arranged:
            frame = frame.repartition(contract.sort[0]).sortWithinPartitions(*contract.sort)
        (frame.select(*(F.col(f.name).cast(f.dataType) for f in spark_schema(self._stored)))
            .write.option("compression", "zstd").option("mapreduce.fileoutputcommitter.marksuccessfuljobs", "false")
            .option("parquet.block.size", str(256 << 20)).parquet(f"{self.table.path}/{folder}"))
        return self._read_back(frame.sparkSession, folder, [f"{self.table.path}/{folder}"])

    def _read_back(self, spark: SparkSession, folder: str, paths: list[str]) -> "_Written":
        """Look at what lies on disk: sizes and counts for the log, and the digest of the bytes that will be seen."""
        schema = spark_schema(self._stored)
        if not paths:
            return _Written(folder, [], digest_of_files([]), spark.createDataFrame([], schema))
        back = spark.read.schema(schema).parquet(*paths)
        sums = row_digest(back, back.columns)
        files = (back.groupBy(F.col("_metadata.file_name").alias("file"), F.col("_metadata.file_size").alias("size"))
                 .agg(F.count("*").alias("rows"), sums[0].alias("a"), sums[1].alias("b")).orderBy("file").collect())
        return _Written(folder, [(unquote(f.file), f.size, f.rows) for f in files], digest_of_files(files), back)

    def _ordered(self) -> list[tuple[str, str]]:
        return [(k, self.partition[k]) for k in self.table.contract.partition]

    def _summary(self, written: "_Written", counts: Mapping[str, int], inputs: Mapping[str, str]) -> DayCommit:
        rows = sum(f[2] for f in written.files)
        return DayCommit(self.partition["ds"], self._delta.version() + 1, rows, written.digest, fingerprint(inputs), dict(counts),
                         dict(inputs), code_revision(), time.time())

    def _publish(self, written: "_Written", commit: DayCommit) -> DayCommit:
        now = int(commit.written_at * 1000)
        adds = [AddAction(f"{written.folder}/{name}", size, self.partition, now, True, json.dumps({"numRecords": rows}))
                for name, size, rows in written.files]
        properties = CommitProperties(custom_metadata=noted(commit, self._app),
                                      app_transactions=[Transaction(*n) for n in self._next.items()])
        self._commit_once_nobody_was_first(adds, properties, commit)
        found = self.table.day(self.partition)
        if found is None:
            raise TableError(f"table {self.table.contract.name}, {self._app}: the commit cannot be read back")
        return found

    def _overtaken(self, delta: DeltaTable) -> bool:
        return any((delta.transaction_version(name) or 0) + 1 != number for name, number in self._next.items())

    def _conflict(self, reason: str = "") -> ConflictError:
        return ConflictError(f"table {self.table.contract.name}, {self._app}: another writer committed it meanwhile; nothing of "
                             f"this run was made visible, run it again {reason}".rstrip())

    def _stands(self, commit: DayCommit) -> bool:
        found = self.table.day(self.partition)
        return found is not None and (found.written_at, found.digest) == (commit.written_at, commit.digest)

    def _commit_once_nobody_was_first(self, adds: list[AddAction], properties: CommitProperties, commit: DayCommit) -> None:
        # A commit of *another* day may also be refused (it removed files the log had when we began): then our day's
        # transaction number is unchanged and trying again on the newest version is safe.
        reason = ""
        for attempt in range(_ATTEMPTS):
            delta = self.table.open()
            if self._overtaken(delta):
                break
            try:
                delta.create_write_transaction(
                    adds, mode="overwrite", schema=delta.schema(), partition_by=list(self.table.contract.partition),
                    partition_filters=[(k, "=", v) for k, v in self._ordered()], commit_properties=properties,
                    post_commithook_properties=_HOOKS)
                return
            except (CommitFailedError, DeltaError) as error:
                if self._stands(commit):  # what failed is the checkpoint after it, which a later commit writes
                    return
                if why := used_up(error):
                    raise TableError(f"table {self.table.contract.name}, {self._app}: {why}") from error
                reason = str(error).splitlines()[0]
                time.sleep(0.05 * 2**attempt)
        raise self._conflict(reason)


@dataclass(frozen=True)
class _Written:
    folder: str
    files: list[tuple[str, int, int]]
    digest: str
    rows: DataFrame
    beside: dict[str, int] = field(default_factory=dict)


class Table:
    """One table of a lake.

    Examples
    --------
    >>> import tempfile
    >>> table = Table(tempfile.mkdtemp(), CONTRACTS["events"])
    >>> table.exists(), table.days()
    (False, [])
    """

    def __init__(self, lake: str, contract: Contract) -> None:
        self.contract = contract
        self.path = f"{lake.rstrip('/')}/{contract.name}"
        self._newest: DeltaTable | None = None

    def exists(self) -> bool:
        """Whether the table has been created."""
        return DeltaTable.is_deltatable(self.path)

    def open(self, version: int | None = None) -> DeltaTable:
        """The table's log, as it is now or as of a version. Raises TableError when the table does not exist yet.

        Asked again for what is now, it gives the same object, brought up to date: that reads the commits since, not the log anew.
        """
        if version is None and self._newest is not None:
            self._newest.update_incremental()
            return self._newest
        try:
            delta = DeltaTable(self.path, version=version)
        except TableNotFoundError as error:
            raise TableError(f"table {self.contract.name} does not exist at {self.path}; run the job that builds it") from error
        if version is None:
            self._newest = delta
        return delta

    def version(self) -> int:
        """Newest version."""
        return self.open().version()

    def begin(self, ds: str, **partition: str) -> DayWriter:
        """Start replacing a day (and, for a table with more partition columns, their values).

        Raises
        ------
        TableError : a value is no name of a folder: it could lead out of the table's.
        """
        if wrong := [v for v in (ds, *partition.values()) if not _FOLDER.fullmatch(v)]:
            raise TableError(f"table {self.contract.name}: {wrong[0]!r} cannot be a day or another value of a partition, which "
                             "have only letters, digits, '_', '-' and '.'")
        if not self.exists():
            self._create()
        return DayWriter(self, {"ds": ds, **partition}, self.open())

    def _create(self) -> None:
        if "://" not in self.path:
            Path(self.path).mkdir(parents=True, exist_ok=True)
        schema = Schema.from_json(spark_schema(self.contract.schema).json())
        self._newest = None
        DeltaTable.create(self.path, schema, mode="ignore", partition_by=list(self.contract.partition), configuration=_LOG,
                          description=self.contract.row)

    def days(self, version: int | None = None) -> list[str]:
        """Days with at least one row, ascending."""
        if not self.exists():
            return []
        return sorted({p["ds"] for p in self.open(version).partitions()})

    def day(self, partition: str | Mapping[str, str], delta: DeltaTable | None = None, digest: str = "") -> DayCommit | None:
        """The newest commit of a day (of this digest, when one is given), or None when there is none."""
        if delta is None and not self.exists():
            return None
        wanted = {"ds": partition} if isinstance(partition, str) else partition
        return newest_commit(delta or self.open(), partition_name(wanted), digest)

    def digests(self, days: Iterable[str]) -> dict[str, str]:
        """Digest of the content of each day, `absent` for one that was never written."""
        wanted = list(days)
        found = self.commits(wanted, self.open()) if self.exists() else {}
        return {ds: found[ds].digest if ds in found else "absent" for ds in wanted}

    def commits(self, days: Iterable[str], delta: DeltaTable) -> dict[str, DayCommit]:
        """The newest commit of each day that was ever written; `delta` is brought to the state of the table that these are of."""
        return {own.ds: own for own in newest_commits(delta, [partition_name({"ds": ds}) for ds in days]).values()}

    def files(self, days: Iterable[str] | None = None, version: int | None = None) -> list[str]:
        """Paths of the data files of some days (default: all), in a fixed order."""
        delta = self.open(version)
        filters = None if days is None else [("ds", "in", list(days))]
        if filters and not filters[0][2]:
            return []
        return sorted(delta.file_uris(partition_filters=filters))

    def read(self, spark: SparkSession, days: Iterable[str] | None = None, version: int | None = None) -> DataFrame:
        """Rows of some days (default: all) as a DataFrame with the contract's columns; an absent table or day has no rows."""
        schema = spark_schema(self.contract.schema)
        files = self.files(days, version) if self.exists() else []
        if not files:
            return spark.createDataFrame([], schema)
        return spark.read.option("basePath", self.path).schema(schema).parquet(*files).select(*self.contract.columns)

    def read_arrow(self, days: Iterable[str] | None = None, columns: list[str] | None = None,
                   version: int | None = None) -> pa.Table:
        """Rows of some days as an Arrow table, without Spark (for the driver side of small tables and for tests)."""
        import pyarrow.dataset as pads

        wanted = columns or self.contract.columns
        schema = pa.schema([self.contract.schema.field(c) for c in wanted])
        files = self.files(days, version) if self.exists() else []
        if not files:
            return schema.empty_table()
        tables = [_with_partitions(pads.dataset(f, format="parquet"), f, wanted).cast(lenient(schema)) for f in files]
        return pa.concat_tables(tables)

    def clean_orphans(self, older_than_s: float = 86_400.0) -> list[str]:
        """Delete `orphans`; returns them."""
        found = self.orphans(older_than_s)
        for path in found:
            Path(path).unlink()
        return found

    def orphans(self, older_than_s: float = 86_400.0) -> list[str]:
        """Files no commit ever named and that are older than the longest job. Local paths only.

        A live writer's files look like orphans, so the age must exceed the longest job.
        """
        root = Path(self.path)
        if not self.exists() or not root.is_dir():
            return []
        data = {Path(unquote(a)) for a in _every_path_named(self.open())}
        named = {str(p) for path in data for p in (path, path.with_name(f".{path.name}.crc"))}
        limit = time.time() - older_than_s
        return [str(p) for p in sorted(root.rglob("*")) if p.is_file() and "_delta_log" not in p.parts
                and str(p.relative_to(root)) not in named and p.stat().st_mtime < limit]


def _every_path_named(delta: DeltaTable) -> set[str]:
    log = Path(delta.table_uri.removeprefix("file://")) / "_delta_log"
    actions = (json.loads(line) for file in log.glob("*.json") for line in file.read_text().splitlines())
    return {a["add"]["path"] for a in actions if "add" in a}


def _with_partitions(dataset: Any, file: str, columns: list[str]) -> pa.Table:
    parts = dict(p.split("=", 1) for p in file.split("/") if "=" in p)
    table = dataset.to_table(columns=[c for c in columns if c not in parts])
    for name in columns:
        if name in parts:
            table = table.append_column(name, pa.array([unquote(parts[name])] * table.num_rows, pa.string()))
    return table.select(columns)


def lenient(schema: pa.Schema) -> pa.Schema:
    """A schema with columns that all may be null, as Arrow has them while they are put together."""
    return pa.schema([f.with_nullable(True) for f in schema])


class Lake:
    """All tables of one recipe, under one root.

    Examples
    --------
    >>> Lake("/tmp/lake/demo").table("pages").path
    '/tmp/lake/demo/pages'
    """

    def __init__(self, root: str) -> None:
        self.root = root
        self._tables: dict[str, Table] = {}

    def table(self, name: str) -> Table:
        """A table by its contract's name. Raises TableError for a name without a contract."""
        if name not in CONTRACTS:
            raise TableError(f"no table is called {name!r}; the tables are {', '.join(sorted(CONTRACTS))}")
        return self._tables.setdefault(name, Table(self.root, CONTRACTS[name]))

    def read(self, spark: SparkSession, name: str, days: Iterable[str] | None = None) -> DataFrame:
        """Shorthand for `table(name).read(spark, days)`."""
        return self.table(name).read(spark, days)


def union_all(frames: Iterable[DataFrame]) -> DataFrame:
    """Frames of one shape, one below the other."""
    return reduce(DataFrame.unionByName, frames)
