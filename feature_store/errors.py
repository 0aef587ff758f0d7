"""Errors a user can act on. The command line prints their text alone, without a stack trace, and exits non-zero."""


class MovelineError(Exception):
    """Something the user can mend: the message names the thing and the fix."""


class ConfigError(MovelineError):
    """A recipe file is wrong; the message names file, key and, where there is one, column."""


class InputError(MovelineError):
    """Raw data is missing, unreadable, of the wrong type, or bad beyond the configured share."""


class TableError(MovelineError):
    """A table is missing, or its content does not meet its contract."""


class ConflictError(MovelineError):
    """Another writer committed the same day first; nothing of ours was made visible."""


class ModelError(MovelineError):
    """An unknown model name, or a model that cannot be built, trained or loaded as asked."""
