"""Users cut into folds by a hash of their id: who was a generator trained on, and whose flow may it therefore not give."""

import zlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class FoldUsers:
    """The users of one fold (`inside`), or all others. Fold of a user: CRC-32 of the id's UTF-8 bytes modulo `folds`."""

    fold: int
    folds: int
    inside: bool


def fold_of(users: pa.Array | pa.ChunkedArray, folds: int) -> np.ndarray:
    """[len(users)] int64, the fold of each user, as Spark's `crc32(user_id) % folds` gives it.

    Examples
    --------
    >>> fold_of(pa.array(["ann", "bob", "ann"]), 2).tolist()
    [1, 0, 1]
    """
    if isinstance(users, pa.ChunkedArray):
        users = users.combine_chunks()
    codes = users.cast(pa.string()).dictionary_encode()
    of_each = np.array([zlib.crc32(user.encode()) % folds for user in codes.dictionary.to_pylist()], np.int64)
    return of_each[codes.indices.to_numpy(zero_copy_only=False)]
