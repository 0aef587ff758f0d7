"""The data dictionary: docs/data_dictionary.md, made from the contracts. `python -m feature_store.dictionary` writes it."""

from pathlib import Path

import pyarrow as pa

from feature_store.contracts import CONTRACTS, Contract
from feature_store.errors import TableError

PAGE = Path(__file__).resolve().parent.parent / "docs" / "data_dictionary.md"

_ENTRY = "of each token as of the cut, oldest first: its "
_STAY = "of each visit that had closed by the cut, oldest first: its "
_AHEAD = "of each item that came after the cut, in order: its "
MEANING = {
    "event_id": "names the event; a correction has the same one",
    "user_id": "who",
    "event_time": "when it happened",
    "seq": "order of what happened at one time",
    "available_time": "when it could be known; nothing cut before that uses it",
    "scene": "where in the app: home, search, an item's page",
    "action": "what was done: view, click, cart, query",
    "item_id": "which item, as the log names it",
    "category_id": "the item's category",
    "query": "what was searched for",
    "session_id": "the log's own session",
    "dwell_ms": "how long the user stayed, milliseconds",
    "attributes": "anything else of the log, name to text",
    "op": "`upsert` or, to take an event back, `delete`",
    "replaced_time": "from when on another version of the event holds; null for the one that stands",
    "ds": "the UTC day that the row belongs to",
    "page_id": "names what was shown together",
    "shown_time": "when the page was shown",
    "label_time": "when the last label of the page is known",
    "scenario": "which list of the app the page belongs to",
    "trigger_item_id": "the item that led to the page",
    "trigger_source": "how the trigger is known: shown at the entrance, or clicked",
    "position": "place on the page, from 0 or 1 as logged",
    "price": "price when it was shown",
    "viewed": "it came into view",
    "clicked": "it was clicked",
    "click_time": "first click",
    "ordered": "it was bought",
    "labels": "further labels, name to number",
    "stage": "stage of the log's own recommender that chose it",
    "ranker_score": "score the log's own ranker gave it",
    "brand_id": "brand",
    "shop_id": "shop",
    "features": "further features, name to number",
    "valid_from": "from when on this version holds",
    "origin": "table the row was meant for, or `input_<name>` for a line that could not be parsed",
    "reason": "the first rule it broke",
    "row_key": "names the row among those of its day",
    "row": "the raw row as JSON, cut to a length",
    "n_tokens": "tokens",
    "n_over_cap": "tokens over the recipe's cap a day: counted, not kept",
    "entry_time": "first step of the visit",
    "closed_time": "when the next scene began, or the pause was over",
    "n_shown": "items shown during it",
    "n_clicked": "items clicked",
    "n_carted": "items put into the cart",
    "categories": "its most frequent categories, at most three",
    "trigger_category_id": "category of the trigger as of the cut",
    "n_merged": "rows of the page that named an item again",
    "cut_time": "the row knows only what was known before",
    "moveline_time": _ENTRY + "time",
    "moveline_scene": _ENTRY + "scene",
    "moveline_action": _ENTRY + "action",
    "moveline_item": _ENTRY + "item",
    "moveline_category": _ENTRY + "category",
    "visit_time": _STAY + "entry",
    "visit_scene": _STAY + "scene",
    "visit_dwell_ms": _STAY + "length, milliseconds",
    "visit_shown": _STAY + "items shown",
    "visit_clicked": _STAY + "items clicked",
    "visit_carted": _STAY + "items put into the cart",
    "visit_category": _STAY + "most frequent category",
    "n_items": "viewed items of the page",
    "co_click": "pairs of which both were clicked, exact count",
    "co_non_click": "pairs of which neither was clicked, exact count",
    "mono_click": "pairs of which one was clicked, exact count",
    "left_item": "of each sampled pair: the item that stands first on the page",
    "right_item": "of each sampled pair: the other item",
    "left_category": "of each sampled pair: category of the left item",
    "right_category": "of each sampled pair: category of the right item",
    "kind": "of each sampled pair: co_click, co_non_click or mono_click",
    "weight": "of each sampled pair: inverse of the probability with which the pair was kept",
    "item_a": "the one of the two items that sorts first",
    "item_b": "the other",
    "future_item": _AHEAD + "id",
    "future_category": _AHEAD + "category",
    "future_scene": _AHEAD + "scene",
    "future_action": _AHEAD + "action",
    "future_time": _AHEAD + "time",
    "field": "item, category, scene, action or scenario",
    "id": "the raw id",
    "index": "its index for ever",
    "first_time": "when it was first known",
    "score": "what the version gave each item, in their order",
    "codes": "the item's code of each level, the first level first; null without code books",
    "vector": "as many numbers as the version's vectors have",
    "level": "of the code books, from 0 on",
    "code": "its number in the book",
    "model": "registered name",
    "model_version": "its number",
}
"""What a column holds, by its name: a name means the same in every table."""


def dictionary() -> str:
    """The page as Markdown.

    Raises
    ------
    TableError : a column has no meaning written down, or one is written down for a column that no table has.
    """
    columns = {name for contract in CONTRACTS.values() for name in contract.columns}
    if columns != set(MEANING):
        other = ", ".join(sorted(columns ^ set(MEANING)))
        raise TableError(f"feature_store/dictionary.py: MEANING and the contracts differ in {other}")
    head = ("# Data dictionary\n\nMade from `feature_store/contracts.py` by `python -m feature_store.dictionary`; a test compares "
            "them.\nTimes are UTC, in microseconds; tables hold raw ids. Lists that belong together (`moveline_*`, `visit_*`,\n"
            "`future_*`, what a page shows) have one length.\n")
    return head + "".join(map(_table, CONTRACTS.values()))


def _table(contract: Contract) -> str:
    about = f"One row: {contract.row}. Key: {', '.join(contract.key)}. Partitions: {', '.join(contract.partition)}. "
    rows = "".join(f"| `{f.name}` | {_kind(f.type)} | {'yes' if f.nullable else ''} | {MEANING[f.name]} |\n"
                   for f in contract.schema)
    return (f"\n## {contract.name}\n\n{about}Order within a file: {', '.join(contract.sort)}.\n\n"
            f"| column | type | may be null | meaning |\n| --- | --- | --- | --- |\n{rows}")


def _kind(kind: pa.DataType) -> str:
    """Examples
    --------
    >>> _kind(pa.list_(pa.string())), _kind(pa.map_(pa.string(), pa.float64())), _kind(pa.timestamp("us", tz="UTC"))
    ('list of string', 'map of string to double', 'timestamp')
    """
    if pa.types.is_list(kind):
        return f"list of {_kind(kind.value_type)}"
    if pa.types.is_map(kind):
        return f"map of {_kind(kind.key_type)} to {_kind(kind.item_type)}"
    return "timestamp" if pa.types.is_timestamp(kind) else str(kind)


if __name__ == "__main__":
    PAGE.write_text(dictionary())
