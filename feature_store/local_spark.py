"""Settings of Spark on one machine, for jobs that start it themselves and for graphs that submit them; loads nothing heavy."""

import os
import shlex

from feature_store.errors import ConfigError

_USUAL = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.driver.memory": "2g",
    # A local job lives for a minute: the second compiler costs more than it gives (a demo day: 82 s with it, 62 s without). The
    # first one alone gets 48 MB for its code; a long session fills that, and then the JVM compiles nothing more.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=512m",
}


def local_master() -> str:
    """Where a job runs that starts Spark itself, or that a graph submits on this machine: MOVELINE_MASTER, else two cores of it."""
    return os.environ.get("MOVELINE_MASTER", "local[2]")


def local_spark() -> dict[str, str]:
    """The settings, changed and added to by MOVELINE_SPARK: `key=value`, several separated by spaces, quoted as in a shell.

    Raises
    ------
    ConfigError : a part of it is no setting of Spark.
    """
    try:
        own = [part.partition("=") for part in shlex.split(os.environ.get("MOVELINE_SPARK", ""))]
    except ValueError as error:
        raise ConfigError(f"MOVELINE_SPARK: {error}") from error
    for key, _, value in own:
        if not (key.startswith("spark.") and value):
            raise ConfigError(f"MOVELINE_SPARK: {key!r} is no setting with a value; one is spark.driver.memory=6g")
    return {**_USUAL, **{key: value for key, _, value in own}}
