"""Errors a user can act on. The command line prints their text alone, without a stack trace, and exits non-zero."""

import re

_NO_ROOM = ("No space left on device", "database or disk is full", "Disk quota exceeded")
_NO_MEMORY = ("UNABLE_TO_ACQUIRE_MEMORY", "java.lang.OutOfMemoryError")


def without_password(text: str) -> str:
    """A text in which no address carries a user and password any more.

    Examples
    --------
    >>> without_password("MLflow at postgresql://me:secret@db:5432/mlflow cannot be used")
    'MLflow at postgresql://db:5432/mlflow cannot be used'
    """
    return re.sub(r"://[^/@\s]*@", "://", text)


class MovelineError(Exception):
    """Something the user can mend: the message names the thing and the fix, and carries no password."""

    exit_code = 1

    def __init__(self, message: str = "") -> None:
        super().__init__(without_password(str(message)))


class ConfigError(MovelineError):
    """A recipe file or an argument is wrong; the message names file, key and, where there is one, column."""

    exit_code = 2  # as of wrong usage: the same command ends the same way however often it is tried


class InputError(MovelineError):
    """Raw data is missing, unreadable, of the wrong type, or bad beyond the configured share."""


class TableError(MovelineError):
    """A table is missing, or its content does not meet its contract."""


class ConflictError(MovelineError):
    """Another writer committed the same day first; nothing of ours was made visible."""


class ModelError(MovelineError):
    """An unknown model name, or a model that cannot be built, trained or loaded as asked."""


def used_up(error: BaseException) -> str:
    """What to do when a full disk, or memory of Spark's, is what an error, or one that led to it, is about; "" when it is not.

    Examples
    --------
    >>> used_up(OSError(28, "No space left on device"))
    'the disk is full: free some of it (`moveline doctor` says where it lies) and run it again; nothing half-written is visible'
    """
    seen: set[int] = set()
    at: BaseException | None = error
    while at is not None and id(at) not in seen:
        if any(text in str(at) for text in _NO_ROOM):
            return ("the disk is full: free some of it (`moveline doctor` says where it lies) and run it again; nothing "
                    "half-written is visible")
        if any(text in str(at) for text in _NO_MEMORY):
            return ("Spark has used up its memory: give it more, or smaller pieces of work, as in MOVELINE_SPARK="
                    "\"spark.driver.memory=6g spark.sql.shuffle.partitions=16\" (on a cluster: options of spark-submit), and run "
                    "it again; nothing half-written is visible")
        seen.add(id(at))
        at = at.__cause__ or at.__context__
    return ""
