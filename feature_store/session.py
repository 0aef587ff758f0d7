"""The Spark session of a job, and the bridge from Arrow schemas to Spark's."""

import logging
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import pyarrow as pa
from pyspark.logger import PySparkLogger
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from feature_store.home import home
from feature_store.local_spark import local_master, local_spark

_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # A row may be a whole page or a user's whole day: what a worker holds at once, and Arrow's 2 GB a column, bound the rows.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "8192",
    "spark.ui.showConsoleProgress": "false",
}


def spark_session(app: str) -> SparkSession:
    """The session of one job. Under `spark-submit` the master and memory given there stay; alone it runs on `local[2]`, and what
    the JVM and its Python workers say goes to `logs/spark.log` of the state folder."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(app)
    alone = "SPARK_ENV_LOADED" not in os.environ and "PYSPARK_GATEWAY_PORT" not in os.environ
    if alone:
        builder = builder.master(local_master())
        for key, value in local_spark().items():
            builder = builder.config(key, value)
    for key, value in _ALWAYS.items():
        builder = builder.config(key, value)
    with _stderr_to_log() if alone else nullcontext():
        session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    for name in ("SQLQueryContextLogger", "DataFrameQueryContextLogger"):  # they print, with a trace, what is raised as well
        PySparkLogger.getLogger(name).setLevel(logging.CRITICAL)
    return session


@contextmanager
def _stderr_to_log() -> Iterator[None]:
    # A JVM that is started inside inherits it: its first warnings come before any of Spark's settings are read.
    path = home() / "logs" / "spark.log"
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stderr.flush()
    before = os.dup(2)
    try:
        with path.open("ab") as log:
            os.dup2(log.fileno(), 2)
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def spark_schema(schema: pa.Schema) -> StructType:
    """Spark's form of an Arrow schema (times with a zone become TimestampType)."""
    return from_arrow_schema(schema, prefer_timestamp_ntz=False)
