"""The tables of moveline: their columns, types and keys, in one place.

Schemas are Arrow schemas, so that reading a contract loads neither Spark nor petastorm. `feature_store.session.spark_schema`
turns one into Spark's. Every table is partitioned by the UTC day `ds` (a string, `YYYY-MM-DD`), holds raw ids,
and keeps its rows in the order of its `sort` columns within a file.
"""

from dataclasses import dataclass

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")
TEXT = pa.string()
LONG = pa.int64()
INT = pa.int32()
REAL = pa.float64()
FLAG = pa.bool_()


class Columns:
    """Names of the columns that more than one table or module uses."""

    DS = "ds"
    USER = "user_id"
    ITEM = "item_id"
    CATEGORY = "category_id"
    SCENE = "scene"
    SCENARIO = "scenario"
    ACTION = "action"
    EVENT_TIME = "event_time"
    AVAILABLE_TIME = "available_time"
    SHOWN_TIME = "shown_time"
    LABEL_TIME = "label_time"
    PAGE = "page_id"


@dataclass(frozen=True)
class Contract:
    """One table: what a row is, its columns and its key.

    Parameters
    ----------
    name : folder of the table below the lake.
    row : one line that says what a row is.
    schema : Arrow schema, `ds` included. A field that is not nullable is rejected when null.
    key : columns that name a row within a day.
    sort : columns by which rows are ordered inside a day's files.
    partition : partition columns; a commit replaces one value of all of them together.
    serial : one writer for all days together: what a day holds depends on every other day.
    """

    name: str
    row: str
    schema: pa.Schema
    key: tuple[str, ...]
    sort: tuple[str, ...]
    partition: tuple[str, ...] = ("ds",)
    serial: bool = False

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order."""
        return list(self.schema.names)

    @property
    def required(self) -> list[str]:
        """Columns that must not be null."""
        return [f.name for f in self.schema if not f.nullable]


def _must(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, kind, nullable=False)


def _many(name: str, kind: pa.DataType) -> pa.Field:
    return pa.field(name, pa.list_(kind), nullable=False)


EVENTS = Contract(
    name="events",
    row="one thing a user did somewhere in the app, as it was known from available_time to replaced_time (null: still)",
    schema=pa.schema([
        _must("event_id", TEXT), _must("user_id", TEXT), _must("event_time", TIME), _must("seq", LONG),
        _must("available_time", TIME), _must("scene", TEXT), _must("action", TEXT), pa.field("item_id", TEXT),
        pa.field("category_id", TEXT), pa.field("query", TEXT), pa.field("session_id", TEXT), pa.field("dwell_ms", LONG),
        pa.field("attributes", pa.map_(TEXT, TEXT)), _must("op", TEXT), pa.field("replaced_time", TIME), _must("ds", TEXT),
    ]),
    key=("event_id",),
    sort=("user_id", "event_time", "seq", "event_id"),
)

EXPOSURES = Contract(
    name="exposures",
    row="one item shown at one place of one page",
    schema=pa.schema([
        _must("page_id", TEXT), _must("user_id", TEXT), _must("shown_time", TIME), _must("label_time", TIME),
        _must("available_time", TIME), _must("scene", TEXT), _must("scenario", TEXT), pa.field("trigger_item_id", TEXT),
        pa.field("trigger_source", TEXT), _must("item_id", TEXT), _must("position", INT), pa.field("price", REAL),
        _must("viewed", FLAG), _must("clicked", FLAG), pa.field("click_time", TIME), pa.field("ordered", FLAG),
        pa.field("labels", pa.map_(TEXT, REAL)), pa.field("stage", TEXT), pa.field("ranker_score", REAL), _must("ds", TEXT),
    ]),
    key=("page_id", "item_id", "position"),
    sort=("user_id", "shown_time", "page_id", "position", "item_id"),
)

CLICKS = Contract(
    name="clicks",
    row="one click on a shown item, logged apart from the exposures; joined to them by ingest, never stored alone",
    schema=pa.schema([
        _must("page_id", TEXT), _must("user_id", TEXT), _must("item_id", TEXT), _must("click_time", TIME),
        _must("available_time", TIME), pa.field("ordered", FLAG), _must("ds", TEXT),
    ]),
    key=("page_id", "item_id", "click_time"),
    sort=("user_id", "click_time", "page_id", "item_id"),
)

ITEMS = Contract(
    name="items",
    row="one version of an item's description, from the day it became valid",
    schema=pa.schema([
        _must("item_id", TEXT), pa.field("category_id", TEXT), pa.field("brand_id", TEXT), pa.field("shop_id", TEXT),
        pa.field("price", REAL), pa.field("features", pa.map_(TEXT, REAL)), _must("valid_from", TIME),
        _must("available_time", TIME), _must("ds", TEXT),
    ]),
    key=("item_id", "valid_from"),
    sort=("item_id", "valid_from"),
)

CATALOGUE = Contract(
    name="catalogue",
    row="one version of an item that a page of the day or later may need, of all days of items before; not made for every day",
    schema=pa.schema([
        _must("item_id", TEXT), pa.field("category_id", TEXT), _must("valid_from", TIME), _must("available_time", TIME),
        _must("ds", TEXT),
    ]),
    key=("item_id", "valid_from", "available_time"),
    sort=("item_id", "valid_from", "available_time"),
)

USERS = Contract(
    name="users",
    row="one version of a user's description, from the day it became valid",
    schema=pa.schema([
        _must("user_id", TEXT), pa.field("attributes", pa.map_(TEXT, TEXT)), _must("valid_from", TIME),
        _must("available_time", TIME), _must("ds", TEXT),
    ]),
    key=("user_id", "valid_from"),
    sort=("user_id", "valid_from"),
)

REJECTS = Contract(
    name="rejects",
    row="one row that was refused, with the reason",
    schema=pa.schema([
        _must("origin", TEXT), _must("reason", TEXT), _must("row_key", TEXT), _must("row", TEXT), _must("ds", TEXT),
    ]),
    key=("origin", "row_key", "reason", "row"),
    sort=("reason", "row_key", "row"),
    partition=("ds", "origin"),
)

MOVELINES = Contract(
    name="movelines",
    row="one user's tokens of one day, in order (event_time, seq, event_id); the lists have equal lengths",
    schema=pa.schema([
        _must("user_id", TEXT), _many("event_time", TIME), _many("available_time", TIME), _many("scene", TEXT),
        _many("action", TEXT), _many("item_id", TEXT), _many("category_id", TEXT), _many("dwell_ms", LONG),
        _many("replaced_time", TIME), _must("n_tokens", INT), _must("n_over_cap", INT), _must("ds", TEXT),
    ]),
    key=("user_id",),
    sort=("user_id",),
)

VISITS = Contract(
    name="visits",
    row="one stay of a user in one scene, on the day it closed",
    schema=pa.schema([
        _must("user_id", TEXT), _must("scene", TEXT), _must("entry_time", TIME), _must("seq", INT), _must("closed_time", TIME),
        _must("available_time", TIME), _must("dwell_ms", LONG), _must("n_shown", INT), _must("n_clicked", INT),
        _must("n_carted", INT), _must("n_tokens", INT), _many("categories", TEXT), _must("ds", TEXT),
    ]),
    key=("user_id", "entry_time", "seq"),  # several visits may begin in one instant: seq is their order
    sort=("user_id", "closed_time", "entry_time", "seq"),
)

# What a row knows of its user at its cut: the same columns in pages and flows. All lists are oldest first.
_CONTEXT = [
    _must("cut_time", TIME),
    _many("moveline_time", TIME), _many("moveline_scene", TEXT), _many("moveline_action", TEXT), _many("moveline_item", TEXT),
    _many("moveline_category", TEXT),
    _many("visit_time", TIME), _many("visit_scene", TEXT), _many("visit_dwell_ms", LONG), _many("visit_shown", INT),
    _many("visit_clicked", INT), _many("visit_carted", INT), _many("visit_category", TEXT),
]

PAGES = Contract(
    name="pages",
    row="one page shown to a user: what was known at the cut once, and lists of what was shown, by position",
    schema=pa.schema([
        _must("page_id", TEXT), _must("user_id", TEXT), _must("shown_time", TIME), _must("label_time", TIME),
        _must("available_time", TIME), _must("scene", TEXT), _must("scenario", TEXT), pa.field("trigger_item_id", TEXT),
        pa.field("trigger_category_id", TEXT), pa.field("trigger_source", TEXT),
        _many("item_id", TEXT), _many("category_id", TEXT), _many("position", INT), _many("price", REAL),
        _many("viewed", FLAG), _many("clicked", FLAG), _many("ordered", FLAG), _must("n_merged", INT),
        *_CONTEXT, _must("ds", TEXT),
    ]),
    key=("page_id",),
    sort=("user_bucket", "user_id", "shown_time", "page_id"),
)

PAGES_AT_CLICK = Contract("pages_at_click", "a page cut at its first click instead of when it was shown; for comparison only",
                          PAGES.schema, PAGES.key, PAGES.sort)

PAIRS = Contract(
    name="pairs",
    row="one page: its exact pair counts (viewed items only) and its sampled pairs with inverse-probability weights",
    schema=pa.schema([
        _must("page_id", TEXT), _must("user_id", TEXT), _must("shown_time", TIME), _must("label_time", TIME),
        _must("scenario", TEXT), _must("n_items", INT), _must("n_clicked", INT), _must("co_click", LONG),
        _must("co_non_click", LONG), _must("mono_click", LONG), _many("left_item", TEXT), _many("right_item", TEXT),
        _many("left_category", TEXT), _many("right_category", TEXT), _many("kind", TEXT), _many("weight", REAL), _must("ds", TEXT),
    ]),
    key=("page_id",),
    sort=("user_id", "shown_time", "page_id"),
)

PAIR_COUNTS = Contract(
    name="pair_counts",
    row="two items (item_a < item_b) and how often a page of the day held them as each kind of pair (weighted, unbiased)",
    schema=pa.schema([
        _must("item_a", TEXT), _must("item_b", TEXT), _must("co_click", REAL), _must("co_non_click", REAL),
        _must("mono_click", REAL), _must("ds", TEXT),
    ]),
    key=("item_a", "item_b"),
    sort=("item_a", "item_b"),
)

FLOWS = Contract(
    name="flows",
    row="one cut of a user's walk: what was known before it, and the next items of that day, in order",
    schema=pa.schema([
        _must("user_id", TEXT), *_CONTEXT,
        _many("future_item", TEXT), _many("future_category", TEXT), _many("future_scene", TEXT),
        _many("future_action", TEXT), _many("future_time", TIME), _must("ds", TEXT),
    ]),
    key=("user_id", "cut_time"),
    sort=("user_id", "cut_time"),
)

VOCABULARY = Contract(
    name="vocabulary",
    row="one id of one field and the index it keeps for ever; 0 pads, 1..buckets are out-of-vocabulary buckets",
    schema=pa.schema([
        _must("field", TEXT), _must("id", TEXT), _must("index", LONG), _must("first_time", TIME), _must("ds", TEXT),
    ]),
    key=("field", "id"),
    sort=("field", "index"),
    serial=True,
)

_OF_A_VERSION = ("ds", "model", "model_version")

_MADE_BY = (_must("model", TEXT), _must("model_version", TEXT), _must("ds", TEXT))

SCORES = Contract(
    name="scores",
    row="one page, and the click probability that a registered version gives each of its shown items",
    schema=pa.schema([
        _must("page_id", TEXT), _must("user_id", TEXT), _must("cut_time", TIME), _must("scenario", TEXT), _many("item_id", TEXT),
        _many("position", INT), _many("score", REAL), *_MADE_BY,
    ]),
    key=("page_id",),
    sort=("user_id", "cut_time", "page_id"),
    partition=_OF_A_VERSION,
)

RETRIEVED = Contract(
    name="retrieved",
    row="one user, and the items that a registered version expects of them next, the best first",
    schema=pa.schema([
        _must("user_id", TEXT), _must("cut_time", TIME), _many("item_id", TEXT), _many("score", REAL), *_MADE_BY,
    ]),
    key=("user_id",),
    sort=("user_id",),
    partition=_OF_A_VERSION,
)

ITEM_SIDE = Contract(
    name="item_side",
    row="one item as a registered version sees it before anybody asks: its vector, and its codes where the version has code books",
    schema=pa.schema([
        _must("item_id", TEXT), pa.field("category_id", TEXT), _many("codes", INT), _many("vector", pa.float32()),
        *_MADE_BY,
    ]),
    key=("item_id",),
    sort=("item_id",),
    partition=_OF_A_VERSION,
)

CODE_BOOKS = Contract(
    name="code_books",
    row="one code of one level of the code books of a registered version",
    schema=pa.schema([
        _must("level", INT), _must("code", INT), _many("vector", pa.float32()), *_MADE_BY,
    ]),
    key=("level", "code"),
    sort=("level", "code"),
    partition=_OF_A_VERSION,
)

CONTRACTS = {c.name: c for c in (
    EVENTS, EXPOSURES, CLICKS, ITEMS, CATALOGUE, USERS, REJECTS, MOVELINES, VISITS, PAGES, PAGES_AT_CLICK, PAIRS, PAIR_COUNTS,
    FLOWS, VOCABULARY, SCORES, RETRIEVED, ITEM_SIDE, CODE_BOOKS,
)}
"""Every contract by table name."""

PAIR_KINDS = ("co_click", "co_non_click", "mono_click")
"""Two items of one page: both clicked, neither, exactly one (CCN, arXiv 2411.11508, footnote 1)."""
