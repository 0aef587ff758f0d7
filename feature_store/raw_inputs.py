"""Raw files of a recipe: where they lie, which are there, what they hold.

Paths may be relative to the data folder, absolute, or any Hadoop URL, and may hold `{ds}` and glob characters.
"""

import hashlib
import re
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any

from pyspark.errors import PySparkException
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F
from pyspark.sql.types import StructType

from feature_store.errors import ConfigError, InputError, MovelineError, used_up
from feature_store.recipe import Input

CORRUPT = "_corrupt_record"
_TEXT_FORMATS = ("csv", "json")


@dataclass(frozen=True)
class RawFiles:
    """The files of one input for one day.

    Attributes
    ----------
    name, spec : the input. paths : files or folders that exist and hold data. own : those of the day itself (no late days).
    digest : digest of the names, sizes and modification times of all files below `paths`.
    """

    name: str
    spec: Input
    paths: tuple[str, ...]
    own: tuple[str, ...]
    digest: str


def find_files(spark: SparkSession, name: str, spec: Input, data: str, ds: str, days_back: int = 0) -> RawFiles:
    """List the files of one input that a day reads.

    Parameters
    ----------
    data : folder that relative paths start from. days_back : with `{ds}`, also the folders of this many earlier days, if present.

    Raises
    ------
    InputError : the day's own path does not exist or holds no file, and the input is not optional.
    """
    own = _located(spec.path.replace("{ds}", ds), data)
    wanted = [own]
    if "{ds}" in spec.path:
        day = date.fromisoformat(ds)
        others = [n for n in range(-days_back, spec.late_days + 1) if n]
        wanted += [_located(spec.path.replace("{ds}", str(day + timedelta(n))), data) for n in others]
    found = {path: _listing(spark, path) for path in wanted}
    if not found[own] and not spec.optional:
        raise InputError(f"input {name!r}: no data at {own}; correct --data or source.inputs.{name}.path, "
                         "or mark the input `optional: true`")
    files = sorted(f for listing in found.values() for f in listing)
    digest = hashlib.sha256("\n".join(files).encode()).hexdigest()[:32]
    return RawFiles(name, spec, tuple(p for p in wanted if found[p]), (own,) if found[own] else (), digest)


def _located(path: str, data: str) -> str:
    return path if path.startswith("/") or "://" in path else f"{str(data).rstrip('/')}/{path}"


def _listing(spark: SparkSession, path: str) -> list[str]:
    # Through Hadoop, so that any file system Spark reads is listed the same way.
    jvm: Any = spark._jvm
    target = jvm.org.apache.hadoop.fs.Path(path)
    system = target.getFileSystem(spark._jsc.hadoopConfiguration())
    files: list[str] = []
    for status in system.globStatus(target) or []:
        root = status.getPath().toString()
        walk = system.listFiles(status.getPath(), True)
        while walk.hasNext():
            file = walk.next()
            inner = file.getPath().toString().removeprefix(root)
            if not any(part.startswith(("_", ".")) for part in inner.split("/")):
                files.append(f"{file.getPath()} {file.getLen()} {file.getModificationTime()}")
    return files


def read_rows(spark: SparkSession, raw: RawFiles, place: str) -> DataFrame:
    """Rows of an input that could be parsed. `place` names the recipe and key in errors.

    Raises
    ------
    ConfigError : columns are needed and absent, or are no Spark DDL. InputError : a file cannot be read.
    """
    if not raw.paths:
        why = "an optional input needs them while its file is missing"
        return spark.createDataFrame([], _declared(spark, raw.spec, place, why))
    frame = _parsed(spark, raw, raw.paths, place)
    return frame.where(F.col(CORRUPT).isNull()).drop(CORRUPT) if CORRUPT in frame.columns else frame


def malformed_rows(spark: SparkSession, raw: RawFiles, place: str) -> tuple[DataFrame, int, int] | None:
    """Lines of the day's own files that could not be parsed (columns `line`, `key`), how many, and the number of all lines."""
    if raw.spec.format not in _TEXT_FORMATS or not raw.own:
        return None
    frame = _parsed(spark, raw, raw.own, place)
    # Spark refuses a query of the corrupt column alone, so that the first column goes along.
    key = F.md5(F.concat_ws("|", F.col(CORRUPT), F.col(f"`{frame.columns[0]}`").cast("string")))
    bad = frame.where(F.col(CORRUPT).isNotNull()).select(F.col(CORRUPT).alias("line"), key.alias("key"))
    counts = frame.agg(F.count(F.lit(1)).alias("all"), F.count(CORRUPT).alias("bad"), F.count(f"`{frame.columns[0]}`")).collect()[0]
    return bad, counts["bad"], counts["all"]


def _parsed(spark: SparkSession, raw: RawFiles, paths: tuple[str, ...], place: str) -> DataFrame:
    spec = raw.spec
    reader = spark.read.options(**spec.options)
    try:
        if spec.format not in _TEXT_FORMATS:
            return reader.format(spec.format).load(list(paths))
        schema = _text_schema(spark, raw, paths, place)
        # Without pruning every line is parsed whole, so that a malformed one is seen whatever columns are used.
        reader = reader.options(mode="PERMISSIVE", columnNameOfCorruptRecord=CORRUPT, columnPruning="false")
        if spec.options.get("header", "").lower() == "true":
            reader = reader.option("enforceSchema", "false")
        return reader.schema(schema.add(CORRUPT, "string")).format(spec.format).load(list(paths))
    except Exception as error:
        raise explained(error, f"input {raw.name!r} ({', '.join(paths)})") from error


def _text_schema(spark: SparkSession, raw: RawFiles, paths: tuple[str, ...], place: str) -> StructType:
    spec = raw.spec
    if spec.columns or spec.format == "json" or spec.options.get("header", "").lower() != "true":
        return _declared(spark, spec, place, f"{spec.format} without a header carries no names and types")
    return spark.read.options(**spec.options).csv(list(paths)).schema


def _declared(spark: SparkSession, spec: Input, place: str, why: str) -> StructType:
    if not spec.columns:
        raise ConfigError(f"{place}.columns: missing; {why}: give them as Spark DDL, e.g. \"user STRING, time LONG\"")
    try:
        return StructType.fromDDL(spec.columns)
    except PySparkException as error:
        raise ConfigError(f"{place}.columns: not Spark DDL: {short_reason(error)}") from error


def short_reason(error: BaseException) -> str:
    """Spark's own first sentence about an error, without class names, plans or stack traces."""
    text = re.split(r"\s*SQLSTATE|== SQL|\n\s*at |\n\+- ", str(error))[0]
    found = re.search(r"\[[A-Z][A-Z0-9_.]+\]\s*(.*)", text, re.S)
    return " ".join((found.group(1) if found else text).split())[:300].rstrip(" ;")


def explained(error: Exception, what: str) -> MovelineError:
    """An error of Spark as one line that names the file or the value; errors that are ours pass unchanged."""
    if isinstance(error, MovelineError):
        return error
    if why := used_up(error):
        return InputError(f"{what}: {why}")
    text = str(error)
    file = re.search(r"(?:[Ee]rror while reading file|footer for file:?|while reading|is not a Parquet file[^/]*?)\s*"
                     r"(?:FileStatus\{path=)?([a-z0-9]*:?/[^\s;,\"]+)", text)
    path = file or re.search(r"([a-z0-9]+:/[^\s;,\"]+?)(?:;| is not a Parquet| is not an ORC)", text)
    if path and re.search(r"FAILED_READ_FILE|footer|not a Parquet|magic number|read file|reading file", text):
        return InputError(f"{what}: the file {path.group(1).rstrip('.')} is corrupt or not of the configured format; "
                          "replace it, or correct the input's `format`")
    return InputError(f"{what}: {_inner_reason(text) or short_reason(error)}")


def _inner_reason(text: str) -> str:
    # A failed Spark stage hides the sentence that matters behind its own; the sentences of Spark carry [CODES].
    found = re.findall(r"\[([A-Z][A-Z0-9_]+(?:\.[A-Z0-9_]+)*)\] ([^\n]*)", text)
    return next((" ".join(t.split(" SQLSTATE")[0].split()) for _, t in reversed(found) if t), "")[:300]
