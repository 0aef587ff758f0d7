"""The log as Spark frames with numbers for ids, made by workers.

A unit of work is one block of users on one day, always of the same shape, so that the arithmetic, and with it the log, is the
same to the bit for any number of partitions.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import date

import numpy as np
import pyarrow as pa
from pyspark.sql import DataFrame, SparkSession

from feature_store.session import spark_schema
from feature_store.simulator import world
from feature_store.simulator.catalog import catalog_of, on_sale, prices
from feature_store.simulator.noise import Floats, Ints, Noise
from feature_store.simulator.settings import SimulatorSettings
from feature_store.simulator.slates import Slates, slates_of
from feature_store.simulator.walk import DAY_S, SECOND, Walk, walk_of

BLOCK = 256
_BUY_AFTER_S = 240
_LAG_S = 3
_TIME, _INT, _REAL, _FLAG = pa.timestamp("us", tz="UTC"), pa.int64(), pa.float64(), pa.bool_()

EVENT_COLUMNS = pa.schema([
    ("kind", _INT), ("user", _INT), ("day", _INT), ("step", _INT), ("slot", _INT), ("session", _INT), ("event_time", _TIME),
    ("available_time", _TIME), ("scene", _INT), ("action", _INT), ("item", _INT), ("category", _INT), ("dwell_ms", _INT),
])
"""What a worker makes of the events; kind 0 is a step of the walk, 1 a click on a page, 2 a purchase after one."""

PAGE_COLUMNS = pa.schema([
    ("user", _INT), ("day", _INT), ("step", _INT), ("shown_time", _TIME), ("scene", _INT), ("scenario", _INT), ("trigger", _INT),
    ("relevant", _FLAG), ("intent", pa.list_(_REAL)), ("slot", pa.list_(_INT)), ("item", pa.list_(_INT)),
    ("price", pa.list_(_REAL)), ("viewed", pa.list_(_FLAG)), ("clicked", pa.list_(_FLAG)), ("ordered", pa.list_(_FLAG)),
    ("click_time", pa.list_(_TIME)),
    ("click_probability", pa.list_(_REAL)), ("view_probability", pa.list_(_REAL)),
])
"""What a worker makes of the pages: one row a page, lists by position."""

ITEM_COLUMNS = pa.schema([
    ("item", _INT), ("day", _INT), ("category", _INT), ("brand", _INT), ("shop", _INT), ("price", _REAL),
])

TRUTH_ITEM_COLUMNS = pa.schema([("item", _INT), ("vector", pa.list_(_REAL)), ("quality", _REAL)])


def unix_day(day: date) -> int:
    """Days since 1970-01-01."""
    return (day - date(1970, 1, 1)).days


def events(spark: SparkSession, settings: SimulatorSettings, days: range, partitions: int | None = None) -> DataFrame:
    """Events with numbers for ids (`EVENT_COLUMNS`), duplicates included, of days given as days since 1970."""
    return _units(spark, settings, days, partitions, EVENT_COLUMNS, _events_of)


def pages(spark: SparkSession, settings: SimulatorSettings, days: range, partitions: int | None = None) -> DataFrame:
    """Pages with numbers for ids (`PAGE_COLUMNS`)."""
    return _units(spark, settings, days, partitions, PAGE_COLUMNS, _pages_of)


def items(spark: SparkSession, settings: SimulatorSettings, days: range) -> DataFrame:
    """Items (`ITEM_COLUMNS`): all of them on the first day, later the ones whose price changed."""
    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for day in batch.column(0).to_pylist():
                yield _items_of(settings, day, day == days.start)

    return spark.range(days.start, days.stop, 1, 1).mapInArrow(work, spark_schema(ITEM_COLUMNS))


def truth_items(spark: SparkSession, settings: SimulatorSettings) -> DataFrame:
    """Latent vector and own logit of every item (`TRUTH_ITEM_COLUMNS`)."""
    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for _ in batches:
            catalog = catalog_of(settings)
            columns = [pa.array(np.arange(settings.items)), _lists(catalog.vectors), pa.array(catalog.quality)]
            yield pa.RecordBatch.from_arrays(columns, schema=TRUTH_ITEM_COLUMNS)

    return spark.range(0, 1, 1, 1).mapInArrow(work, spark_schema(TRUTH_ITEM_COLUMNS))


def _units(spark: SparkSession, settings: SimulatorSettings, days: range, partitions: int | None, schema: pa.Schema,
           unit: Callable[[SimulatorSettings, Walk, Slates], pa.RecordBatch]) -> DataFrame:
    blocks = -(-settings.users // BLOCK)

    def work(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
        for batch in batches:
            for number in batch.column(0).to_pylist():
                day, block = divmod(number, blocks)
                walk = walk_of(settings, np.arange(block * BLOCK, (block + 1) * BLOCK), days.start + day)
                walk.real[walk.user >= settings.users] = False
                yield unit(settings, walk, slates_of(settings, walk))

    # Units of one day lie together, so that a task writes few folders.
    return spark.range(0, blocks * len(days), 1, partitions).mapInArrow(work, spark_schema(schema))


def _events_of(settings: SimulatorSettings, walk: Walk, slates: Slates) -> pa.RecordBatch:
    row, step = np.nonzero(walk.real)
    page, slot = np.nonzero(slates.clicked)
    bought, bought_slot = np.nonzero(slates.ordered)
    steps = _steps_of(settings, walk, row, step)
    clicks = _reactions(slates, walk, page, slot, 1, slates.scene[page], world.CLICK, slates.click_time[page, slot])
    later = slates.click_time[bought, bought_slot] + _BUY_AFTER_S * SECOND
    buys = _reactions(slates, walk, bought, bought_slot, 2, np.full(len(bought), world.CART), world.BUY, later)
    columns = {c: np.concatenate([steps[c], clicks[c], buys[c]]) for c in steps}
    columns["category"] = np.where(columns["item"] >= 0, columns["item"] % settings.categories, columns["category"])
    keys = tuple(columns[c] for c in ("user", "day", "kind", "step", "slot"))
    columns["available_time"] = _arrival(settings, columns["event_time"], keys)
    copies = 1 + (Noise(settings.seed).uniform("duplicate", *keys) < settings.duplicate_share)
    columns = {c: np.repeat(v, copies) for c, v in columns.items()}
    return pa.RecordBatch.from_arrays([pa.array(columns[f.name]).cast(f.type) for f in EVENT_COLUMNS], schema=EVENT_COLUMNS)


def _steps_of(settings: SimulatorSettings, walk: Walk, row: Ints, step: Ints) -> dict[str, Ints]:
    user = walk.user[row]
    dwell = 1_000 * (3 + 40 * Noise(settings.seed).uniform("dwell", user, walk.day, step))
    nothing = np.zeros(len(row), np.int64)
    return {
        "kind": nothing, "user": user, "day": nothing + walk.day, "step": step, "slot": nothing, "session": walk.session[step],
        "event_time": walk.time[row, step], "scene": walk.scene[row, step], "action": walk.action[row, step],
        "item": walk.item[row, step], "category": walk.category[row, step], "dwell_ms": dwell.astype(np.int64),
    }


def _reactions(slates: Slates, walk: Walk, page: Ints, slot: Ints, kind: int, scene: Ints, action: int,
               time: Ints) -> dict[str, Ints]:
    same = np.zeros(len(page), np.int64)
    item = slates.item[page, slot]
    return {
        "kind": same + kind, "user": slates.user[page], "day": same + walk.day, "step": slates.step[page], "slot": slot,
        "session": walk.session[slates.step[page]], "event_time": time, "scene": scene, "action": same + action,
        "item": item, "category": same - 1, "dwell_ms": same,
    }


def _arrival(settings: SimulatorSettings, time: Ints, keys: tuple[Ints, ...]) -> Ints:
    """Unix microseconds: a few seconds after the event, or, for the late ones, some time on the next day."""
    noise = Noise(settings.seed)
    soon = time + (_LAG_S * 1_000 * noise.uniform("lag", *keys)).astype(np.int64) * 1_000
    tomorrow = (time // (DAY_S * SECOND) + 1) * DAY_S * SECOND
    late = tomorrow + (DAY_S * 900 * noise.uniform("late by", *keys)).astype(np.int64) * 1_000
    return np.where(noise.uniform("late", *keys) < settings.late_share, late, soon)


def _pages_of(settings: SimulatorSettings, walk: Walk, slates: Slates) -> pa.RecordBatch:
    pages, size = slates.item.shape
    same = np.zeros(pages, np.int64)
    price = prices(settings, slates.item, (slates.shown_time // (DAY_S * SECOND))[:, None])
    arrays = [
        slates.user, same + walk.day, slates.step, slates.shown_time, slates.scene, slates.scenario, slates.trigger,
        slates.relevant, slates.intent, np.broadcast_to(np.arange(size), (pages, size)), slates.item, price, slates.viewed,
        slates.clicked, slates.ordered, slates.click_time, slates.click_probability,
        np.broadcast_to(slates.view_probability, (pages, size)),
    ]
    columns = [(pa.array(a) if a.ndim == 1 else _lists(a)).cast(f.type) for a, f in zip(arrays, PAGE_COLUMNS, strict=True)]
    return pa.RecordBatch.from_arrays(columns, schema=PAGE_COLUMNS)


def _items_of(settings: SimulatorSettings, day: int, every: bool) -> pa.RecordBatch:
    item = np.arange(settings.items)
    changed = on_sale(settings, item, day) != on_sale(settings, item, day - 1)
    item = item if every else item[changed]
    catalog = catalog_of(settings)
    columns = [item, np.full(len(item), day), item % settings.categories, catalog.brand[item], catalog.shop[item],
               prices(settings, item, day)]
    return pa.RecordBatch.from_arrays([pa.array(c) for c in columns], schema=ITEM_COLUMNS)


def _lists(values: Floats) -> pa.ListArray:
    rows, width = values.shape
    offsets = np.arange(rows + 1, dtype=np.int32) * width
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel()))
