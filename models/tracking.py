"""Reaching MLflow: what goes wrong on the way to it is one line that names its address."""

from collections.abc import Iterator
from contextlib import contextmanager

import httpx
from mlflow.exceptions import MlflowException
from sqlalchemy.exc import SQLAlchemyError

from feature_store.errors import ModelError, without_password

_ANSWERS_S = 10.0


@contextmanager
def reaching(uri: str) -> Iterator[None]:
    """Errors of MLflow inside become one that names its address and the fix.

    Raises
    ------
    ModelError : MLflow, its database or its files cannot be reached, or refuse.
    """
    try:
        yield
    except (MlflowException, SQLAlchemyError, httpx.HTTPError, OSError, ImportError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError(f"MLflow at {uri} cannot be used: {reason}; start it, or check MLFLOW_TRACKING_URI (unset, it is "
                         "SQLite below MOVELINE_HOME)") from error


def ask(uri: str) -> None:
    """Ask a server whether it is there: MLflow itself would ask again for minutes. Raises ModelError when nobody answers."""
    if uri.startswith(("http://", "https://")):
        with reaching(uri):
            httpx.head(without_password(uri), timeout=_ANSWERS_S, verify=False)  # certificates and answers are for MLflow to judge
