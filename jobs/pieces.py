"""Whole groups of sorted rows from Arrow batches, and lists built from offsets: no Python per row or per user."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

CHUNK_ROWS = 262_144
"""Rows gathered before a piece is worked on: what bounds the memory of a worker (a group that is larger is gathered whole)."""


@dataclass(frozen=True)
class Piece:
    """Rows of which the first `done` belong to groups that are complete; the rest is the start of the next piece.

    Attributes
    ----------
    table : sorted rows. done : rows of complete groups. dropped : rows of the first group that `trim` took away.
    """

    table: pa.Table
    done: int
    dropped: int


def pieces(batches: Iterable[pa.RecordBatch], starts: Callable[[pa.Table], np.ndarray],
           trim: Callable[[pa.Table], pa.Table] | None = None, rows: int = CHUNK_ROWS) -> Iterator[Piece]:
    """Cut a partition's batches where groups end.

    Parameters
    ----------
    starts : from a table to the positions at which its groups start (ascending, the first is 0).
    trim : may drop rows of a group that is not complete yet, so that one huge group cannot fill the memory.
    """
    gathered: list[pa.Table] = []
    held, dropped, limit = 0, 0, rows
    for batch in batches:
        if batch.num_rows == 0:
            continue
        gathered.append(pa.Table.from_batches([batch]))
        held += batch.num_rows
        if held < limit:
            continue
        table = pa.concat_tables(gathered).combine_chunks()
        done = int(starts(table)[-1])
        if done:
            yield Piece(table, done, dropped)
            dropped = 0
        rest = table.slice(done)
        kept = trim(rest) if trim else rest
        dropped += rest.num_rows - kept.num_rows
        gathered, held = [kept], kept.num_rows
        limit = max(rows, 2 * held)  # a group larger than a piece is looked at a logarithmic number of times
    if held:
        table = pa.concat_tables(gathered).combine_chunks()
        yield Piece(table, table.num_rows, dropped)


def user_starts(table: pa.Table) -> np.ndarray:
    """Positions at which another user's rows start, in a table that has rows and is sorted by `user_id`."""
    return changes(table["user_id"])


def changes(column: pa.ChunkedArray) -> np.ndarray:
    """Positions at which a column without nulls differs from the row before; 0 is one of them."""
    flat = plain(column)
    differs = pc.not_equal(flat.slice(1), flat.slice(0, len(flat) - 1)).to_numpy(zero_copy_only=False)
    return np.concatenate(([0], np.flatnonzero(differs) + 1)).astype(np.int64)


def plain(column: pa.ChunkedArray) -> pa.Array:
    """A column as one array."""
    if column.num_chunks == 1:
        return column.chunk(0)
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)


def micros(column: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """[n] int64, unix microseconds of a time column without nulls."""
    return pc.cast(column, pa.int64()).to_numpy()


def lists(offsets: np.ndarray, values: pa.Array) -> pa.ListArray:
    """Lists `values[offsets[i]:offsets[i + 1]]`."""
    return pa.ListArray.from_arrays(pa.array(offsets.astype(np.int32)), values)


def offsets_of(lengths: np.ndarray) -> np.ndarray:
    """[n + 1] int64, where each of n lists of these lengths starts, and the end."""
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def spans(start: np.ndarray, length: np.ndarray) -> np.ndarray:
    """The positions of all spans `start[i], ..., start[i] + length[i] - 1`, one after another.

    Examples
    --------
    >>> spans(np.array([5, 0]), np.array([2, 3]))
    array([5, 6, 0, 1, 2])
    """
    offsets = offsets_of(length)
    return np.repeat(start - offsets[:-1], length) + np.arange(offsets[-1])
