"""Where state lives: everything below MOVELINE_HOME (default `var/` in the current folder)."""

import os
from pathlib import Path


def home() -> Path:
    """The state folder, absolute."""
    return Path(os.environ.get("MOVELINE_HOME", "var")).expanduser().absolute()


def lake_root(recipe_name: str) -> str:
    """The folder (any Hadoop path when MOVELINE_LAKE is set) under which the tables of one recipe lie."""
    return f"{_lakes()}/{recipe_name}"


def ledger_root() -> str:
    """The folder of the ledger of aliases (`models.ledger`), beside the lakes of all recipes, none of which begins with `_`."""
    return f"{_lakes()}/_ledger"


def _lakes() -> str:
    return (os.environ.get("MOVELINE_LAKE") or str(home() / "lake")).rstrip("/")


def raw_root(recipe_name: str) -> Path:
    """Where the simulator writes the log of one recipe."""
    return home() / "raw" / recipe_name


def cache_root(recipe_name: str) -> Path:
    """Encoded training sets and checkpoints of one recipe; safe to delete."""
    return home() / "cache" / recipe_name


def tracking_uri() -> str:
    """MLflow's tracking address: MLFLOW_TRACKING_URI, else SQLite below the state folder."""
    return os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{home() / 'mlflow.db'}"
