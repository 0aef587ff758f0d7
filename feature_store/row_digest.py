"""A digest of rows that does not depend on their order, their partitions or the layout of their files."""

import hashlib
from collections.abc import Iterable

from pyspark.sql import Column, DataFrame, Row
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType


def row_digest(frame: DataFrame, columns: Iterable[str]) -> tuple[Column, Column]:
    """Two aggregate expressions whose values name the rows of a frame, whatever their order or partitioning."""
    row = F.xxhash64(*(part for c in columns for part in _hashable(F.col(f"`{c}`"), frame.schema[c].dataType)))
    # The second sum hashes the hash, not the row again: reading long lists twice was half the time of a day of pairs.
    return tuple(F.sum(own.cast("decimal(38,0)")) for own in (row, F.xxhash64(F.lit(2), row)))  # type: ignore[return-value]


def _hashable(column: Column, kind: DataType) -> list[Column]:
    # A null is hashed as nothing, so that ("a", null) and (null, "a") would be equal without the marks.
    if isinstance(kind, MapType):
        column, kind = F.array_sort(F.map_entries(column)), ArrayType(kind.valueType)
    if not isinstance(kind, ArrayType):
        return [column.isNull(), column]
    nulls = F.when(F.exists(column, lambda own: own.isNull()), F.transform(column, lambda own: own.isNull()))
    return [column.isNull(), F.size(column), nulls, column]


def digest_of_files(files: list[Row]) -> str:
    """One digest from the sums of `row_digest` of each file, `a` and `b`, and its number of `rows`."""
    total = [sum(int(f[c]) for f in files) % 2**128 for c in ("a", "b")]
    return hashlib.sha256(f"{total} {sum(f.rows for f in files)}".encode()).hexdigest()[:32]
