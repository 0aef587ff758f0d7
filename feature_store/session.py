"""The Spark session of a job, and the bridge from Arrow schemas to Spark's."""

import os
import sys

import pyarrow as pa
from pyspark.sql import SparkSession
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

_ALWAYS = {
    "spark.sql.session.timeZone": "UTC",
    "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    "spark.sql.sources.partitionColumnTypeInference.enabled": "false",
    "spark.sql.execution.arrow.pyspark.enabled": "true",
    # A row may be a whole page or a user's whole day: what a worker holds at once, and Arrow's 2 GB a column, bound the rows.
    "spark.sql.execution.arrow.maxRecordsPerBatch": "8192",
    "spark.ui.showConsoleProgress": "false",
}
_LOCAL = {
    "spark.ui.enabled": "false",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
    "spark.sql.shuffle.partitions": "4",
    "spark.driver.memory": "2g",
    # A local job lives for a minute: the second compiler costs more than it gives (a demo day: 82 s with it, 62 s without). Alone the
    # first compiler gets 48 MB for its code; a long session fills that, and then the JVM compiles nothing more.
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:ReservedCodeCacheSize=512m",
}


def spark_session(app: str) -> SparkSession:
    """The session of one job. Under `spark-submit` the master and memory given there stay; alone it runs on `local[2]`."""
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    os.environ.setdefault("PYSPARK_DRIVER_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(app)
    if "SPARK_ENV_LOADED" not in os.environ and "PYSPARK_GATEWAY_PORT" not in os.environ:
        builder = builder.master(os.environ.get("MOVELINE_MASTER", "local[2]"))
        for key, value in _LOCAL.items():
            builder = builder.config(key, value)
    for key, value in _ALWAYS.items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    session.sparkContext.setLogLevel("ERROR")
    return session


def spark_schema(schema: pa.Schema) -> StructType:
    """Spark's form of an Arrow schema (times with a zone become TimestampType)."""
    return from_arrow_schema(schema, prefer_timestamp_ntz=False)
