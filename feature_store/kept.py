"""Frames that several passes read: computed once and kept until they are released."""

from typing import Self

from pyspark import StorageLevel
from pyspark.sql import DataFrame


class Kept:
    """What one piece of work keeps; released when a `with` ends.

    It lies on disk: what lies in memory is taken from the sorts and groups of the same stages, which then fail for want of it.
    """

    def __init__(self) -> None:
        self._frames: list[DataFrame] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def keep(self, frame: DataFrame) -> DataFrame:
        """The frame, computed by the first pass that reads it and read from disk by all others."""
        self._frames.append(frame.persist(StorageLevel.DISK_ONLY))
        return self._frames[-1]

    def release(self) -> None:
        """Free the disk."""
        while self._frames:
            self._frames.pop().unpersist()
