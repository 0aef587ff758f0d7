"""Users cut into folds by a hash of their id: who was a generator trained on, and whose flow may it therefore not give."""

import hashlib
from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class FoldUsers:
    """The users of one fold (`inside`), or all others. Fold of a user: the first 32 bits of the id's MD5, modulo `folds`."""

    fold: int
    folds: int
    inside: bool


def fold_of(users: pa.Array | pa.ChunkedArray, folds: int) -> np.ndarray:
    """[len(users)] int64, the fold of each user, as Spark's `conv(left(md5(user_id), 8), 16, 10) % folds` gives it.

    Examples
    --------
    >>> fold_of(pa.array(["u1", "u2", "u1"]), 2).tolist()
    [1, 0, 1]
    """
    if isinstance(users, pa.ChunkedArray):
        users = users.combine_chunks()
    codes = users.cast(pa.string()).dictionary_encode()
    digests = (hashlib.md5(user.encode(), usedforsecurity=False).digest() for user in codes.dictionary.to_pylist())
    of_each = np.array([int.from_bytes(digest[:4]) % folds for digest in digests], np.int64)
    return of_each[codes.indices.to_numpy(zero_copy_only=False)]
