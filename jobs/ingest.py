"""Ingest: one day of raw input becomes the canonical tables events, exposures (with their clicks), items and users.

Rows that break a rule go to `rejects` with a reason, and are visible there also when too many of them stop the run.
"""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import date, timedelta
from functools import partial
from typing import Any

from pyspark.sql import Column, DataFrame, SparkSession
from pyspark.sql import functions as F

from feature_store import quality
from feature_store.contracts import CONTRACTS
from feature_store.kept import Kept
from feature_store.quality import JOINED, MAX_ROW_CHARS, OUT, ROW, STATUS, accounted, refused, short_json, within_limit
from feature_store.raw_inputs import explained
from feature_store.recipe import Recipe
from feature_store.revision import source_digest
from feature_store.sources import OWN_TIME, Source, in_day
from feature_store.tables import Lake, union_all
from jobs.day import DayResult, Made, build_day, day_start, days_until

_CODE = ("feature_store.contracts", "feature_store.quality", "feature_store.raw_inputs", "feature_store.sources", "jobs.ingest")
NOT_SHOWN, OUTSIDE, _ELSEWHERE = "click_not_shown", "outside_day", "elsewhere"
_ARRIVED = "_arrived"


def build(spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, data: str, recipe_path: str) -> list[DayResult]:
    """Ingest one day of every table the recipe maps.

    Parameters
    ----------
    data : folder that relative input paths start from. recipe_path : the recipe's file, for errors.

    Returns
    -------
    One result a table (events, exposures, items, users).

    Raises
    ------
    ConfigError : an expression is wrong. InputError : an input is missing, unreadable, or has more bad rows than the recipe allows.
    """
    run = Ingest(spark, recipe, lake, ds, data, recipe_path)
    try:
        with one_line_errors(f"recipe {recipe_path}, ds={ds}"):
            notes = [*run.malformed(), *run.beyond()]
            results = [run.table(name) for name in run.source.tables() if name != "clicks"]
    finally:
        run.release()
    return [replace(results[0], note="; ".join([*notes, *filter(None, [results[0].note])])), *results[1:]]


@contextmanager
def one_line_errors(what: str) -> Iterator[None]:
    """Turn an error of Spark inside the block into an InputError of one line; ours pass."""
    try:
        yield
    except Exception as error:
        if type(error).__module__.split(".")[0] not in ("pyspark", "py4j"):
            raise
        raise explained(error, what) from error


class Ingest:
    """One day's run; `table` builds one table of it."""

    def __init__(self, spark: SparkSession, recipe: Recipe, lake: Lake, ds: str, data: str, recipe_path: str) -> None:
        self.spark, self.recipe, self.lake, self.ds, self.path = spark, recipe, lake, ds, recipe_path
        self.data = str(data)
        self.source = Source(spark, recipe, self.data, ds, recipe_path)
        # A click of this day may belong to a page of a day before, whose own run joins it: those pages are read too.
        late = self.source.late_days()
        self.wide = Source(spark, recipe, self.data, ds, recipe_path, days_back=late) if late else self.source
        self.alone = Source(spark, _without_late_days(recipe), self.data, ds, recipe_path) if late else self.source
        self._kept = Kept()

    def malformed(self) -> list[str]:
        """Send the day's unparsable lines to `rejects` under the origin `input_<name>`; what a user should know of them."""
        names = sorted({i for t in self.source.tables() for i in self.source.inputs_of(t)})
        return list(filter(None, (self._malformed_of(name) for name in names)))

    def beyond(self) -> list[str]:
        """On the recipe's first day: how many rows of a log in one piece lie outside the recipe's days, which no run will read."""
        days = self.recipe.days
        if days is None or self.ds != str(days.first):
            return []
        first, last = str(days.first), str(days.last or date.max)
        return list(filter(None, (self._beyond_of(name, first, last) for name in self.source.tables())))

    def release(self) -> None:
        """Free what was kept for several tables."""
        self.source.release()
        self.wide.release()
        self.alone.release()

    def table(self, name: str) -> DayResult:
        """Build one table's day. Rejects first, then the table."""
        clicks = ["clicks"] if name == "exposures" and self.recipe.source.clicks else []
        try:
            result = build_day(self.lake.table(name), self.ds, partial(self._inputs, [name, *clicks]),
                               lambda inputs: self._make(name, dict(inputs)))
        finally:
            self._kept.release()
        return result if result.rows or result.status == "skipped" else replace(result, note=self._empty_note(name))

    def _inputs(self, names: list[str]) -> dict[str, str]:
        source = self.wide if "clicks" in names else self.source
        files = {k: v for name in names for k, v in source.digests(name).items()}
        # Only what shapes these tables: another table's mapping does not make them run again.
        used = {*names, "inputs", "views", "available_delay_s", "scenes", "actions"}
        slim = self.recipe.source.model_dump(by_alias=True, include=used)
        config = json.dumps({"source": slim, "quality": self.recipe.quality.model_dump()}, sort_keys=True)
        return {**files, "code": source_digest(*_CODE), "config": config}

    def _make(self, name: str, inputs: dict[str, str]) -> Made:
        rows = self._judged(name)
        counts = accounted(_statuses(rows))
        good = quality.stored(rows, name)
        self._reject(name, rows, counts, inputs)
        if name == "exposures" and self.recipe.source.clicks:
            clicks = self._clicks(rows)
            found = accounted(_statuses(clicks))
            self._reject("clicks", clicks, found, inputs)
            counts = {k: counts.get(k, 0) + found.get(k, 0) for k in {**counts, **found}}
            good = with_clicks(good, clicks.where(F.col(STATUS) == JOINED))
        return Made(good.withColumn("ds", F.lit(self.ds)).select(*CONTRACTS[name].columns), counts)

    def _judged(self, name: str, any_day: bool = False) -> DataFrame:
        limits, source = self.recipe.quality, self.recipe.source
        rows = self._ruled(self.source, name, any_day)
        if not any_day:
            rows = union_all([rows, *self._outside(name)])
        # Counted, refused, compared and written from one reading.
        return quality.judged(self._kept.keep(rows), name, limits, source, self._kept.keep)

    def _ruled(self, source: Source, name: str, any_day: bool) -> DataFrame:
        return source.rows(name, any_day, lambda frame: quality.ruled(frame, name, self.recipe.quality, self.recipe.source))

    def _outside(self, name: str) -> Iterator[DataFrame]:
        """Rows of the day's own folders that no day would take: of a later day, or too long before it. They have a status."""
        alone = _without_late_days(self.recipe)
        for mapping in getattr(alone.source, name):
            recipe = alone.model_copy(update={"source": alone.source.model_copy(update={name: [mapping]})})
            source = Source(self.spark, recipe, self.data, self.ds, self.path)
            spec = self.recipe.source.inputs[source.inputs_of(name)[0]]
            if "{ds}" in spec.path:
                rows = self._ruled(source, name, any_day=True)
                own, first = F.col(OWN_TIME[name]), days_until(self.ds, spec.late_days + 1)[0]
                outside = (own < F.lit(day_start(first))) | (own >= F.lit(day_start(self.ds) + timedelta(1)))
                yield rows.where(outside).withColumn(STATUS, F.coalesce(STATUS, F.lit(OUTSIDE)))

    def _beyond_of(self, name: str, first: str, last: str) -> str:
        if any("{ds}" in self.recipe.source.inputs[i].path for i in self.source.inputs_of(name)):
            return ""
        day = F.to_date(OWN_TIME[name]).cast("string")
        found = self.source.rows(name, True).where((day < first) | (day > last)).agg(F.count("*"), F.min(day), F.max(day)).first()
        if not found or not found[0]:
            return ""
        return f"{found[0]} rows of {name} ({found[1]} to {found[2]}) lie outside the recipe's days {first} to {last}: never read"

    def _clicks(self, shown: DataFrame) -> DataFrame:
        """The clicks that this day accounts for: those on its pages, and those that no day's pages will take."""
        clicks, late = self._judged("clicks", any_day=True), self._late_clicks()
        first = day_start(days_until(self.ds, (late or 0) + 1)[0])
        own, elsewhere = F.coalesce(in_day("click_time", self.ds), F.lit(True)), ~in_day("shown_time", self.ds)
        if late is not None:
            # Only the runs of these days read this folder: a click on an older page came too late, and is refused here or nowhere.
            elsewhere = (F.col("shown_time") >= first) & (F.col("shown_time") < day_start(self.ds))
            clicks, own = self._arrived(clicks), F.col(_ARRIVED)
        pages = self.wide.rows("exposures", any_day=True).where(elsewhere).select("page_id").distinct()
        outside = (F.col("click_time") < first) | (F.col("click_time") >= day_start(self.ds) + timedelta(1))
        lost = F.when(outside, OUTSIDE).otherwise(NOT_SHOWN)
        return self._kept.keep(placed_clicks(clicks, shown, pages, own, lost).drop(_ARRIVED))

    def _late_clicks(self) -> int | None:
        """For how many days after a page its clicks may arrive; None when they lie in files without a day in their path."""
        inputs = [self.recipe.source.inputs[name] for name in self.source.inputs_of("clicks")]
        return max(i.late_days for i in inputs) if all("{ds}" in i.path for i in inputs) else None

    def _arrived(self, clicks: DataFrame) -> DataFrame:
        """Clicks with a mark of those that lie in the day's own folders: each lies in one day's, which answers for it."""
        if self.alone is self.source:
            return clicks.withColumn(_ARRIVED, F.lit(True))
        rows = self._ruled(self.alone, "clicks", any_day=True)
        own = quality.judged(rows, "clicks", self.recipe.quality, self.recipe.source, self._kept.keep)
        later = clicks.exceptAll(own.select(*clicks.columns))
        return own.withColumn(_ARRIVED, F.lit(True)).unionByName(later.withColumn(_ARRIVED, F.lit(False)))

    def _reject(self, origin: str, rows: DataFrame, counts: dict[str, int], inputs: dict[str, str]) -> None:
        bad = sum(n for k, n in counts.items() if k.startswith("reject."))
        self._write_rejects(origin, lambda: refused(rows, origin, self.ds), bad, inputs)
        within_limit(counts, origin, self.ds, self.recipe.quality, self.path)

    def _write_rejects(self, origin: str, frame: Any, bad: int, inputs: dict[str, str]) -> None:
        rejects = self.lake.table("rejects")
        if not bad and rejects.day({"ds": self.ds, "origin": origin}) is None:
            return
        build_day(rejects, self.ds, lambda: {**inputs, "rows": str(bad)}, lambda _: Made(frame(), {"in": bad, "out": bad}),
                  origin=origin)

    def _malformed_of(self, name: str) -> str:
        found = self.source.malformed(name)
        if found is None:
            return ""
        bad, count, lines = found
        text = F.col("line")
        rows = bad.select(F.lit(f"input_{name}").alias("origin"), F.lit("malformed").alias("reason"), F.col("key").alias("row_key"),
                          short_json(F.to_json(F.struct(F.substring(text, 1, MAX_ROW_CHARS).alias("line")))).alias("row"),
                          F.lit(self.ds).alias("ds"))
        self._write_rejects(f"input_{name}", lambda: rows, count, self._inputs([]) | {"raw": self.source.digest(name)})
        counts = {"in": lines, "out": lines - count, "reject.malformed": count}
        within_limit(counts, f"input {name!r}", self.ds, self.recipe.quality, self.path)
        return f"{count} malformed lines of input {name!r} rejected" if count else ""

    def _empty_note(self, name: str) -> str:
        own = OWN_TIME[name]
        span = self.source.rows(name, any_day=True).agg(F.min(own).cast("date"), F.max(own).cast("date")).first()
        if span is None or span[0] is None:
            return "no rows of this day; the input is empty"
        return f"no rows of this day; the input holds days {span[0]} to {span[1]}"


def _without_late_days(recipe: Recipe) -> Recipe:
    alone = {name: spec.model_copy(update={"late_days": 0}) for name, spec in recipe.source.inputs.items()}
    return recipe.model_copy(update={"source": recipe.source.model_copy(update={"inputs": alone})})


def _statuses(rows: DataFrame) -> dict[str, int]:
    return {r[STATUS]: r["count"] for r in rows.groupBy(STATUS).count().collect()}


def placed_clicks(clicks: DataFrame, shown: DataFrame, other_pages: DataFrame, own: Column, lost: Column) -> DataFrame:
    """Decide for each click whether its item was shown on its page.

    Parameters
    ----------
    clicks : judged clicks of all days read. shown : judged exposures of the day. other_pages : `page_id` of the pages of other
    days whose own runs read these clicks. own : whether the day answers for a click that is on none of these pages. lost : the
    reason of a reject for it.

    Returns
    -------
    `clicks` whose page was shown on the day, and the day's own without any page. `_status` becomes `click` where the item was
    shown, `click_not_shown` where not, `lost` without a page; rejects by rule stay where they are.
    """
    good = shown.where(F.col(STATUS) == OUT).select("page_id", "user_id", "item_id").distinct().withColumn("_shown", F.lit(True))
    pages = shown.select("page_id").where(F.col("page_id").isNotNull()).distinct().withColumn("_here", F.lit(True))
    other = other_pages.withColumn("_other", F.lit(True))
    joined = clicks.join(good, ["page_id", "user_id", "item_id"], "left").join(pages, "page_id", "left")
    joined = joined.join(other, "page_id", "left")
    here, orphan = F.col("_here").isNotNull(), own & F.col("_other").isNull()
    status = (F.when(F.col(STATUS) != OUT, F.when(here | orphan, F.col(STATUS)).otherwise(_ELSEWHERE))
              .when(F.col("_shown"), F.lit(JOINED)).when(here, F.lit(NOT_SHOWN)).when(orphan, lost).otherwise(_ELSEWHERE))
    return joined.withColumn(STATUS, status).where(F.col(STATUS) != _ELSEWHERE).drop("_shown", "_here", "_other")


def with_clicks(shown: DataFrame, clicks: DataFrame) -> DataFrame:
    """Exposures with their clicks: clicked, ordered, first click time; the label is known once the last click is known."""
    key = ["page_id", "user_id", "item_id"]
    marks = clicks.groupBy(*key).agg(
        F.min("click_time").alias("_first"), F.max(F.greatest("click_time", "available_time")).alias("_known"),
        F.max("ordered").alias("_ordered"))
    both = shown.join(marks, key, "left")
    return both.withColumns({
        "clicked": F.col("clicked") | F.col("_first").isNotNull(),
        "click_time": F.least("click_time", "_first"),
        "ordered": F.coalesce(F.greatest("ordered", "_ordered"), F.lit(None).cast("boolean")),
        "label_time": F.greatest("label_time", "_known"),
    }).drop("_first", "_known", "_ordered", ROW)
