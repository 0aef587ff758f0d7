"""Late rows do not rewrite old pages: a change of a history day by rows that became known only after a day is none for that day."""

from collections.abc import Mapping
from datetime import timedelta

from pyspark.errors import AnalysisException
from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store.contracts import MOVELINES
from feature_store.row_digest import row_digest
from feature_store.tables import Lake, Table
from jobs.day import day_start

_HISTORIES = ("movelines", "visits")
_LISTS = [f.name for f in MOVELINES.schema if str(f.type).startswith("list")]


def settled(spark: SparkSession, lake: Lake, table: Table, ds: str, inputs: Mapping[str, str]) -> dict[str, str]:
    """Inputs of a day whose cuts all lie in it, with the digest it was built from in place of one that differs in late rows only.

    Costs nothing on a first build and when no day of the history changed; else the changed days are read, old and new.

    Parameters
    ----------
    table : the table whose day `ds` is built. inputs : see `jobs.day.inputs_of`.
    """
    before = table.day(ds)
    if before is None:
        return dict(inputs)
    end = F.lit(day_start(ds) + timedelta(1))
    kept = {}
    for key, digest in inputs.items():
        name, _, day = key.partition("/")
        old = before.inputs.get(key, digest)
        if name in _HISTORIES and old != digest and _same(spark, lake.table(name), day, old, end):
            kept[key] = old
    return {**inputs, **kept}


def _same(spark: SparkSession, table: Table, day: str, digest: str, end: Column) -> bool:
    old = table.day(day, digest=digest)
    if old is None:
        return False
    try:
        sums = [frame.agg(*row_digest(frame, frame.columns)).first()
                for frame in (_known(table.read(spark, [day], version), end) for version in (old.version, None))]
    except AnalysisException:  # the files of the old version were cleaned away
        return False
    return bool(sums[0] == sums[1])


def _known(frame: DataFrame, end: Column) -> DataFrame:
    """Rows (of movelines: tokens) that were available before a moment."""
    if "n_over_cap" not in frame.columns:
        return frame.where(F.col("available_time") < end)
    known = F.filter(F.arrays_zip(*_LISTS), lambda token: token["available_time"] < end)
    # That a token was replaced after the day is not known in it.
    tokens = F.transform(known, lambda t: t.withField("replaced_time", F.when(t["replaced_time"] < end, t["replaced_time"])))
    return frame.select("user_id", tokens.alias("tokens")).where(F.size("tokens") > 0)
