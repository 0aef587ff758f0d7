"""From a recipe's raw inputs to rows with the columns of a contract: views, then one mapping (or several) a table.

Every expression is Spark SQL from the recipe. A wrong one is a `ConfigError` that names file, key, column and Spark's reason;
a value that does not fit its column's type becomes a reject (column `bad`), never a crash.
"""

import re
from collections.abc import Callable

from pyspark.errors import PySparkException
from pyspark.sql import Column, DataFrame, SparkSession, Window
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, MapType, StringType, StructType, VariantType

from feature_store.contracts import CONTRACTS, Contract
from feature_store.errors import ConfigError
from feature_store.kept import Kept
from feature_store.raw_inputs import RawFiles, find_files, malformed_rows, read_rows, short_reason
from feature_store.recipe import Mapping, Recipe, View
from feature_store.session import spark_schema
from feature_store.tables import union_all

_MADE = ("ds", "replaced_time")
"""Columns of a contract that no recipe fills."""

OWN_TIME = {"events": "event_time", "exposures": "shown_time", "clicks": "click_time", "items": "valid_from", "users": "valid_from"}
"""The column whose UTC day is the day of a row. A recipe maps some or all of these tables."""
BAD, RAW = "_bad", "_raw"
_VOLATILE = re.compile(r"\b(rand|randn|random|uuid|shuffle|now|monotonically_increasing_id|spark_partition_id)\s*\("
                       r"|\bunix_timestamp\s*\(\s*\)|\b(current_timestamp|current_date|curdate|localtimestamp)\b", re.I)
_SESSION_NAMES = re.compile(r"(?<![.\w])(user|session_user|current_user|current_catalog|current_database|current_schema"
                            r"|current_timezone)\b(?!\s*[(.])", re.I)


class Source:
    """One day's reading of a recipe's source.

    Parameters
    ----------
    spark, recipe : session and recipe. data : folder that relative input paths start from. ds : the day.
    recipe_path : the recipe's file, for errors. days_back : also read this many earlier arrival folders of `{ds}` inputs.
    """

    def __init__(self, spark: SparkSession, recipe: Recipe, data: str, ds: str, recipe_path: str, days_back: int = 0) -> None:
        self.spark, self.spec, self.data, self.ds = spark, recipe.source, data, ds
        self._path, self._back = recipe_path, days_back
        self._frames: dict[str, DataFrame] = {}
        self._files: dict[str, RawFiles] = {}
        self._kept = Kept()

    def tables(self) -> list[str]:
        """Canonical tables that the recipe maps, clicks included."""
        return [name for name in OWN_TIME if self._mappings(name)]

    def late_days(self) -> int:
        """Most late days of any input whose path holds a day."""
        return max((i.late_days for i in self.spec.inputs.values() if "{ds}" in i.path), default=0)

    def inputs_of(self, table: str) -> list[str]:
        """Names of the raw inputs that a table is made from."""
        return sorted({name for m in self._mappings(table) for name in self._roots(m.source, self._at(table), ())})

    def digests(self, table: str) -> dict[str, str]:
        """Digest of the files of each input of a table. Raises InputError when one is missing."""
        return {f"raw/{name}": self.digest(name) for name in self.inputs_of(table)}

    def digest(self, name: str) -> str:
        """Digest of the files of one input."""
        return self._raw(name).digest

    def malformed(self, name: str) -> tuple[DataFrame, int, int] | None:
        """Lines of a text input that could not be parsed, their number, and the number of all; None for typed formats."""
        return malformed_rows(self.spark, self._raw(name), self._at("inputs", name))

    def rows(self, table: str, any_day: bool = False, each: Callable[[DataFrame], DataFrame] | None = None) -> DataFrame:
        """Rows of a table: those whose own time lies in the day, and those without a legible time.

        With `any_day` all that are read. `each` is applied to the rows of each mapping, before the raw row goes through a shuffle
        and before it is made JSON (which costs more than all else); it must not leave `_raw` a struct.

        Returns
        -------
        The contract's columns without `ds` (absent ones null or their default), `_bad` (reason, where a value does not fit its
        column's type) and `_raw` (the mapped row's raw columns as JSON; for `each` a struct).
        """
        return union_all([self._mapped(table, n, m, any_day, each or _as_text) for n, m in enumerate(self._mappings(table))])

    def release(self) -> None:
        """Free the views kept because several others take their rows from them."""
        self._kept.release()
        self._frames.clear()

    def _mappings(self, table: str) -> list[Mapping]:
        return list(getattr(self.spec, table))

    def _at(self, *keys: str) -> str:
        return f"{self._path}: source.{'.'.join(keys)}"

    def _roots(self, name: str, place: str, seen: tuple[str, ...]) -> set[str]:
        if name in self.spec.inputs:
            return {name}
        if name not in self.spec.views or name in seen:
            known = ", ".join([*self.spec.inputs, *(v for v in self.spec.views if v not in seen)])
            why = "takes its rows from itself" if name in seen else "no such input or view"
            raise ConfigError(f"{place}.from: {name!r}: {why}; there are {known}")
        return self._roots(self.spec.views[name].source, self._at("views", name), (*seen, name))

    def _raw(self, name: str) -> RawFiles:
        if name not in self._files:
            self._files[name] = find_files(self.spark, name, self.spec.inputs[name], self.data, self.ds, self._back)
        return self._files[name]

    def _frame(self, name: str, place: str) -> DataFrame:
        self._roots(name, place, ())
        if name not in self._frames:
            if name in self.spec.inputs:
                self._frames[name] = read_rows(self.spark, self._raw(name), self._at("inputs", name))
            else:
                self._frames[name] = self._once(name, self._view(self.spec.views[name], self._at("views", name)))
        return self._frames[name]

    def _once(self, name: str, frame: DataFrame) -> DataFrame:
        # What several mappings and views take from is computed once: its windows and groups cost as much each time.
        mappings = (m for table in self.tables() for m in self._mappings(table))
        if [taken.source for taken in mappings].count(name) + [v.source for v in self.spec.views.values()].count(name) < 2:
            return frame
        return self._kept.keep(frame)

    def _view(self, view: View, place: str) -> DataFrame:
        frame = self._frame(view.source, place)
        for n, step in enumerate(view.steps):
            at = f"{place}.steps[{n}]"
            for column, text in step.add.items():
                frame = checked(frame, text, f"{at}.add.{column}", lambda f, e, c=column: f.withColumn(c, e))  # type: ignore[misc]
            if step.where is not None:
                frame = checked(frame, step.where, f"{at}.where", lambda f, e: f.where(e))
            if len(step.explode) > 1:
                raise ConfigError(f"{at}.explode: one array a step; use arrays_zip, or one more step")
            for column, text in step.explode.items():
                frame = checked(frame, text, f"{at}.explode.{column}", lambda f, e, c=column: f.withColumn(c, _elements(e)))  # type: ignore[misc]
        return _grouped(frame, view, place) if view.group_by or view.aggregate else frame

    def _mapped(self, table: str, number: int, mapping: Mapping, any_day: bool,
                each: Callable[[DataFrame], DataFrame]) -> DataFrame:
        contract, place = CONTRACTS[table], f"{self._at(table)}[{number}]"
        frame = self._frame(mapping.source, place)
        if mapping.where is not None:
            frame = checked(frame, mapping.where, f"{place}.where", lambda f, e: f.where(e))
        _known_columns(contract, mapping, place)
        frame = frame.select(F.struct(*[F.col(f"`{c}`") for c in frame.columns]).alias(RAW), "*")
        typed, bad = _typed(frame, contract, mapping.columns, f"{place}.columns")
        fit = frame.select(*typed, F.coalesce(*bad, F.lit(None).cast("string")).alias(BAD), RAW)
        own = OWN_TIME[table]
        if own in mapping.columns and not any_day:
            fit = fit.where(F.col(own).isNull() | in_day(own, self.ds))
        filled = each(self._filled(fit, contract, mapping, number))
        return _numbered(filled) if _has_made_ids(contract, mapping) else filled

    def _filled(self, frame: DataFrame, contract: Contract, mapping: Mapping, number: int) -> DataFrame:
        own = OWN_TIME[contract.name]
        delay = F.expr(f"interval {self.spec.available_delay_s} seconds")
        defaults: dict[str, Callable[[], Column]] = {
            "valid_from": lambda: F.to_timestamp(F.lit(self.ds)), "available_time": lambda: F.col(own) + delay,
            "label_time": lambda: F.col("available_time"), "seq": lambda: F.lit(0), "op": lambda: F.lit("upsert"),
            "scenario": lambda: F.lit("all"), "viewed": lambda: F.lit(True), "clicked": lambda: F.lit(False),
        }
        for name in ("valid_from", "available_time", *defaults):
            if name in contract.columns and name not in mapping.columns:
                frame = frame.withColumn(name, defaults[name]())
        if _has_made_ids(contract, mapping):
            frame = frame.withColumn("event_id", _row_id(frame.schema[RAW].dataType, number))  # type: ignore[arg-type]
        kinds = spark_schema(contract.schema)
        columns = [(F.col(c) if c in frame.columns else F.lit(None)).cast(kinds[c].dataType).alias(c)
                   for c in contract.columns if c != "ds"]
        return frame.select(*columns, BAD, RAW)


def in_day(column: str, ds: str) -> Column:
    """Whether a time lies in a UTC day."""
    start = F.to_timestamp(F.lit(ds))
    return (F.col(column) >= start) & (F.col(column) < start + F.expr("interval 1 day"))


def checked(frame: DataFrame, text: str, place: str, use: Callable[[DataFrame, Column], DataFrame]) -> DataFrame:
    """Apply an expression; what Spark says against it becomes a ConfigError that starts with `place`."""
    _steady(text, frame, place)
    try:
        return use(frame, F.expr(text))
    except PySparkException as error:
        raise ConfigError(f"{place}: {' '.join(text.split())!r}: {_reason(error, frame)}") from error


def _steady(text: str, frame: DataFrame, place: str) -> None:
    code = re.sub(r"'[^']*'|`[^`]*`", "", text)
    if _VOLATILE.search(code):
        raise ConfigError(f"{place}: {text!r} uses the clock or chance; a row must be the same whenever it is made again")
    # Where the log has no column of this name, Spark would quietly put its own account or catalog in its place.
    taken = [name for name in _SESSION_NAMES.findall(code) if name.lower() not in {c.lower() for c in frame.columns}]
    if taken:
        raise ConfigError(f"{place}: {text!r}: there is no column `{taken[0]}`; the columns are {_listed(frame)}")


def _listed(frame: DataFrame) -> str:
    return ", ".join([c for c in frame.columns if c != RAW][:40])


def _types(frame: DataFrame, texts: dict[str, str], place: str) -> StructType:
    for name, text in texts.items():
        _steady(text, frame, f"{place}.{name}")
    try:  # all at once: asking Spark about each column costs as much as about all
        return frame.select(*[F.expr(text).alias(name) for name, text in texts.items()]).schema
    except PySparkException:
        for name, text in texts.items():
            checked(frame, text, f"{place}.{name}", lambda f, e: f.select(e))
        raise


def _reason(error: PySparkException, frame: DataFrame) -> str:
    if (error.getCondition() or "").startswith("UNRESOLVED_COLUMN"):
        missing = (error.getMessageParameters() or {}).get("objectName", "?")
        return f"there is no column {missing}; the columns are {_listed(frame)}"
    return short_reason(error)


def _elements(array: Column) -> Column:
    # No array at all is not an empty one: its row stays, without an element, and is refused by name where one is needed.
    return F.explode(F.coalesce(array, F.array(F.lit(None))))


def _grouped(frame: DataFrame, view: View, place: str) -> DataFrame:
    if not view.group_by:
        raise ConfigError(f"{place}.group_by: missing beside `aggregate`")
    for column in view.group_by:
        checked(frame, column, f"{place}.group_by", lambda f, e: f.select(e))
    groups = [F.expr(c) for c in view.group_by]
    if not view.aggregate:
        return frame.select(*groups).distinct()
    for column, text in view.aggregate.items():
        checked(frame, text, f"{place}.aggregate.{column}", lambda f, e: f.groupBy(*groups).agg(e))
    return frame.groupBy(*groups).agg(*[F.expr(text).alias(column) for column, text in view.aggregate.items()])


def _known_columns(contract: Contract, mapping: Mapping, place: str) -> None:
    for column in mapping.columns:
        if column not in contract.columns or column in _MADE:
            known = ", ".join(c for c in contract.columns if c not in _MADE)
            raise ConfigError(f"{place}.columns.{column}: {contract.name} has no such column; it has {known}")
    optional = {"ds", "event_id", "seq", "available_time", "label_time", "op", "scenario", "viewed", "clicked", "valid_from"}
    missing = [c for c in contract.required if c not in optional and c not in mapping.columns]
    if missing:
        raise ConfigError(f"{place}.columns.{missing[0]}: missing; {contract.name} needs {', '.join(missing)} too")


def _typed(frame: DataFrame, contract: Contract, texts: dict[str, str], place: str) -> tuple[list[Column], list[Column]]:
    # The columns in the contract's types, and for each that may not fit the reason of its reject.
    found, wanted = _types(frame, texts, place), spark_schema(contract.schema)
    cast = {n: f"({t})" if found[n].dataType == wanted[n].dataType else f"try_cast(({t}) as {wanted[n].dataType.simpleString()})"
            for n, t in texts.items()}
    _types(frame, cast, place)
    typed, bad = [], []
    for name, text in cast.items():
        if isinstance(wanted[name].dataType, StringType):
            typed.append(F.expr(f"nullif({text}, '')").alias(name))  # an empty text is no value
        else:
            typed.append(F.expr(text).alias(name))
            if text.startswith("try_cast"):
                bad.append(F.when(F.expr(f"({texts[name]}) is not null and {text} is null"), F.lit(f"bad_{name}")))
    return typed, bad


def _as_text(frame: DataFrame) -> DataFrame:
    # Rows of several mappings go together only where their raw rows have one type.
    return frame.withColumn(RAW, F.to_json(F.col(RAW)))


def _has_made_ids(contract: Contract, mapping: Mapping) -> bool:
    return "event_id" in contract.columns and "event_id" not in mapping.columns


def _row_id(raw: StructType, number: int) -> Column:
    # The hash of all raw columns.
    parts = [hashed(F.col(RAW)[f.name], f.dataType) for f in raw.fields]
    return F.concat(*[F.lpad(F.hex(F.xxhash64(F.lit(number), F.lit(seed), *parts)), 16, "0") for seed in (1, 2)])


def _numbered(frame: DataFrame) -> DataFrame:
    # Identical rows have one hash and are numbered: they may take these numbers in any order.
    place = F.row_number().over(Window.partitionBy("event_id").orderBy("event_id"))
    again = F.concat_ws("-", "event_id", place.cast("string"))
    return frame.withColumn("event_id", F.when(place == 1, F.col("event_id")).otherwise(again))


def hashed(column: Column, kind: DataType) -> Column:
    """A column in a form that `xxhash64` takes and in which nulls count."""
    if isinstance(kind, ArrayType | MapType | StructType | VariantType):
        return F.to_json(F.struct(column))
    return F.struct(column.isNull(), column)

