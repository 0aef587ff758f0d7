"""`benchmarks/moveline_build.py` in Polars."""

from pathlib import Path

import polars as pl

from benchmarks.timed import arguments, timed

TOKEN = ("event_time", "available_time", "scene", "action", "item_id", "category_id", "dwell_ms", "replaced_time")
ORDER = ("event_time", "seq", "event_id", "available_time")
CONTEXT = {"moveline_time": "event_time", "moveline_scene": "scene", "moveline_action": "action", "moveline_item": "item_id",
           "moveline_category": "category_id"}
GAP, WAIT = 1_800_000_000, 60_000_000


def movelines(events: pl.LazyFrame) -> pl.LazyFrame:
    """A row a user."""
    ordered = events.select("user_id", *TOKEN, "seq", "event_id").sort("user_id", *ORDER)
    return ordered.group_by("user_id").agg(*TOKEN, pl.len().cast(pl.Int32).alias("n_tokens")).with_columns(
        pl.lit(0, pl.Int32).alias("n_over_cap"))


def visits(events: pl.LazyFrame) -> pl.LazyFrame:
    """A row a visit."""
    at, known, gone = (pl.col(name).dt.epoch("us") for name in ("event_time", "available_time", "replaced_time"))
    steps = events.filter((known <= at + WAIT) & ~(gone <= at + WAIT).fill_null(False)).select(
        "user_id", "scene", "category_id", "action", "seq", "event_id", at.alias("at"))
    steps = steps.sort("user_id", "at", "seq", "event_id", "scene")
    same = (pl.col("user_id") == pl.col("user_id").shift()) & (pl.col("scene") == pl.col("scene").shift()) & (
        pl.col("at") - pl.col("at").shift() <= GAP)
    steps = steps.with_columns((~same.fill_null(False)).cum_sum().alias("visit"))
    stays = steps.group_by("visit").agg(
        pl.col("user_id").first(), pl.col("scene").first(), pl.col("at").min().alias("entry"), pl.col("at").max().alias("last"),
        pl.len().alias("n_tokens"), (pl.col("action") == "click").sum().alias("n_clicked"),
        (pl.col("action") == "cart").sum().alias("n_carted")).sort("visit")
    top = steps.filter(pl.col("category_id").is_not_null()).group_by("visit", "category_id").len().sort(
        "visit", "len", "category_id", descending=[False, True, False]).group_by("visit", maintain_order=True).agg(
        pl.col("category_id").head(3).alias("categories"))
    after = pl.when(pl.col("user_id") == pl.col("user_id").shift(-1)).then(pl.col("entry").shift(-1))
    followed = (after - pl.col("last") <= GAP).fill_null(False)
    closed = pl.when(followed).then(after).otherwise(pl.col("last") + GAP)
    dwell = pl.when(followed).then(after).otherwise(pl.col("last")) - pl.col("entry")
    new_instant = (pl.struct("user_id", "entry") != pl.struct("user_id", "entry").shift()).fill_null(True)
    number = pl.int_range(pl.len()).over(new_instant.cum_sum())
    made = stays.select(
        "visit", "user_id", "scene", _time(pl.col("entry")).alias("entry_time"), number.alias("seq"),
        _time(closed).alias("closed_time"), _time(closed + WAIT).alias("available_time"), (dwell // 1_000).alias("dwell_ms"),
        pl.lit(0).alias("n_shown"), "n_clicked", "n_carted", "n_tokens")
    return made.join(top, "visit", "left").drop("visit").with_columns(_filled("categories"))


def _time(micros: pl.Expr) -> pl.Expr:
    return micros.cast(pl.Datetime("us", "UTC"))


def _filled(name: str) -> pl.Expr:
    return pl.col(name).fill_null([])


def pages(events: pl.LazyFrame, cuts: pl.LazyFrame) -> pl.LazyFrame:
    """A row a page."""
    ready = pl.max_horizontal(pl.col("event_time") + pl.duration(microseconds=1), "available_time").alias("ready")
    tokens = events.select("user_id", *ORDER, "scene", "action", "item_id", "category_id", "replaced_time", ready)
    in_use = pl.col("replaced_time").is_null() | (pl.col("cut_time") < pl.col("replaced_time"))
    known = cuts.join(tokens.sort("user_id", *ORDER), "user_id", maintain_order="left_right").filter(
        (pl.col("ready") <= pl.col("cut_time")) & in_use)
    last = known.group_by("page_id", maintain_order=True).agg(*(pl.col(of).tail(50).alias(name) for name, of in CONTEXT.items()))
    return cuts.join(last, "page_id", "left").with_columns(*map(_filled, CONTEXT))


def main() -> None:
    """Each stage as one lazy query that is sunk into a Parquet file."""
    asked = arguments()
    events, cuts = (pl.scan_parquet(asked.input / name / "*.parquet") for name in ("events", "cuts"))

    def sink(frame: pl.LazyFrame, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        frame.sink_parquet(path, compression="zstd")

    timed({"movelines": lambda path: sink(movelines(events), path), "visits": lambda path: sink(visits(events), path),
           "pages": lambda path: sink(pages(events, cuts), path)}, asked)


if __name__ == "__main__":
    main()
