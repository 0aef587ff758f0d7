"""Row groups of Parquet files, whole, as Arrow tables: scheduled, shuffled and sharded by petastorm.

petastorm's batch reader wants every list of a column to be of one length. Only its worker and its results-queue reader do: with
`_WholeGroups` and `_WholeTables` in their place, the table a thread read reaches us as it is.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from petastorm.fs_utils import get_filesystem_and_path_or_paths
from petastorm.reader import Reader
from petastorm.workers_pool import EmptyResultError
from petastorm.workers_pool.thread_pool import ThreadPool
from petastorm.workers_pool.worker_base import WorkerBase

from feature_store.errors import TableError

_PICKLED_SCHEMA = b"dataset-toolkit.unischema.v1"
_TABLES_AHEAD = 4
_LOOK_EVERY_S = 0.0005
"""How often petastorm looks whether its readers need more work. It hands out workers + 2 row groups a look; by default it looks a
hundred times a second, which bounds the rate however fast the files are."""

# petastorm calls Arrow's former dataset interface, and from threads of its own: its warnings are not the user's.
warnings.filterwarnings("ignore", category=FutureWarning, module=r"petastorm\.")
warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"petastorm\.")


@dataclass(frozen=True)
class RowGroup:
    """One row group: its file, its rows, and the shown items of its pages (its rows where the file has no column n_items)."""

    file: str
    rows: int
    items: int


def row_groups(files: Sequence[str]) -> list[RowGroup]:
    """Every row group of the files, in the order of petastorm's indexes.

    Raises
    ------
    TableError : a file is missing, is no Parquet file, or carries a pickled schema (reading that would run code from the data).
    """
    refuse_pickled_schemas(files)
    return [group for file in files for group in _of_file(file)]


def _of_file(file: str) -> list[RowGroup]:
    try:
        with pq.ParquetFile(file) as parquet:
            if _PICKLED_SCHEMA in (parquet.metadata.metadata or {}):
                raise TableError(_pickled(file))
            counts = [parquet.metadata.row_group(n).num_rows for n in range(parquet.num_row_groups)]
            if "n_items" not in parquet.schema_arrow.names:
                return [RowGroup(file, rows, rows) for rows in counts]
            items = [parquet.read_row_group(n, ["n_items"])["n_items"].to_numpy().sum() for n in range(parquet.num_row_groups)]
    except (OSError, pa.ArrowException) as error:
        raise TableError(f"{file}: not a readable Parquet file ({str(error).splitlines()[0]}); encode again") from error
    return [RowGroup(file, rows, int(n)) for rows, n in zip(counts, items, strict=True)]


def refuse_pickled_schemas(files: Iterable[str]) -> None:
    """Raise TableError when a folder holds petastorm's pickled schema: opening such a data set unpickles whatever it contains."""
    for folder in sorted({str(Path(f).parent) for f in files}):
        for name in ("_common_metadata", "_metadata"):
            path = Path(folder) / name
            if path.is_file() and _PICKLED_SCHEMA in path.read_bytes():
                raise TableError(_pickled(str(path)))


def _pickled(path: str) -> str:
    return f"{path}: carries a pickled petastorm schema, which is code; write plain Parquet files instead"


def read_tables(files: Sequence[str], columns: Sequence[str] | None = None, *, shard: int = 0, shards: int = 1,
                seed: int | None = None, workers: int = 1) -> Iterator[pa.Table]:
    """The row groups of one shard (those whose number is `shard` modulo `shards`), each as one table.

    Parameters
    ----------
    columns : None reads all. seed : order of the row groups is shuffled by it; None keeps the order of the files.
    workers : reading threads; with one, the order is the same on every pass.
    """
    fields = None if columns is None else [f"^{c}$" for c in columns]
    filesystem, paths = get_filesystem_and_path_or_paths([f"file://{Path(f).absolute()}" for f in files])
    reader = Reader(filesystem, paths, schema_fields=fields, worker_class=_WholeGroups, is_batched_reader=True,
                    reader_pool=ThreadPool(workers, _TABLES_AHEAD), seed=seed, shuffle_row_groups=seed is not None,
                    cur_shard=shard, shard_count=shards)
    reader.ventilator._ventilation_interval = _LOOK_EVERY_S
    try:
        for table in reader:
            yield table if columns is None else table.select(list(columns))
    finally:
        reader.stop()
        reader.join()


class _WholeGroups(WorkerBase):
    """A reading thread: hands over row groups whole. It reads the footer of a file once, petastorm's own twice a row group."""

    def __init__(self, worker_id: int, publish: Callable[[pa.Table], None], args: tuple[Any, ...]) -> None:
        super().__init__(worker_id, publish, args)
        self._columns, self._pieces = list(args[2].fields), args[4]
        self._open: dict[str, pq.ParquetFile] = {}

    @staticmethod
    def new_results_queue_reader() -> "_WholeTables":
        """What the reader takes the tables from."""
        return _WholeTables()

    def process(self, piece_index: int, worker_predicate: None, shuffle_row_drop_partition: tuple[int, int]) -> None:
        """Read one row group. Its arguments are named by petastorm, which uses only the first here."""
        piece = self._pieces[piece_index]
        if piece.path not in self._open:
            self._open[piece.path] = pq.ParquetFile(piece.path, memory_map=True)
        self.publish_func(self._open[piece.path].read_row_group(piece.row_group, columns=self._columns, use_threads=False))


class _WholeTables:
    """Hands over the table a worker has read, as it is."""

    batched_output = True

    def read_next(self, workers_pool: Any, schema: Any, ngram: Any) -> pa.Table:
        """The next table of the pool; StopIteration after the last."""
        try:
            return workers_pool.get_results()
        except EmptyResultError:
            raise StopIteration from None


def audit(found: int, promised: int, what: str) -> None:
    """Raise TableError when rows were lost or doubled on the way."""
    if found != promised:
        raise TableError(f"{what}: {found} rows arrived, the Parquet footers promise {promised}; the files changed while they "
                         "were read or the reader lost rows, run it again")
