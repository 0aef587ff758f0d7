"""What a log's triggers are like: how many pages have one, from where, whether it is on the page itself, whether it is clicked."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from feature_store.collate import flat, lengths
from feature_store.tables import Lake

_COLUMNS = ["trigger_source", "trigger_item_id", "item_id", "clicked"]
_ROWS_AT_ONCE = 4_096
_NONE = "(no trigger)"


def trigger_shares(lake: Lake, days: Iterable[str] | None = None) -> list[dict[str, Any]]:
    """One row a source of triggers: its pages and their share of all, the shares of its triggers that are on the page, and clicked
    there. Pages without a trigger are one row more. Read some thousands of pages at a time.
    """
    table = lake.table("pages")
    pages, on_page, clicked = Counter[str](), Counter[str](), Counter[str]()
    for file in table.files(days) if table.exists() else []:
        for batch in pads.dataset(file, format="parquet").to_batches(columns=_COLUMNS, batch_size=_ROWS_AT_ONCE):
            if batch.num_rows:
                _count(pa.Table.from_batches([batch]), pages, on_page, clicked)
    total = pages.total()
    return [{"trigger": source, "pages": count, "share of pages": count / total,
             "on the page": None if source == _NONE else on_page[source] / count,
             "clicked there": None if source == _NONE else clicked[source] / count}
            for source, count in sorted(pages.items(), key=lambda one: (one[0] == _NONE, one[0]))]


def _count(rows: pa.Table, pages: Counter[str], on_page: Counter[str], clicked: Counter[str]) -> None:
    trigger = rows["trigger_item_id"].combine_chunks()
    named = pc.fill_null(rows["trigger_source"].combine_chunks(), "(source not given)")
    source = pc.if_else(pc.is_valid(trigger), named, _NONE).to_numpy(zero_copy_only=False)
    page = np.repeat(np.arange(len(rows)), lengths(rows, "item_id"))
    shown = pa.concat_arrays([c.flatten() for c in rows["item_id"].chunks])
    same = pc.fill_null(pc.equal(shown, trigger.take(pa.array(page))), False).to_numpy(zero_copy_only=False)
    hit = same & (flat(rows, "clicked") == True)  # noqa: E712  (null is not clicked)
    for counter, kept in ((pages, np.ones(len(rows), bool)), (on_page, np.bincount(page[same], minlength=len(rows)) > 0),
                          (clicked, np.bincount(page[hit], minlength=len(rows)) > 0)):
        counter.update(Counter(source[kept].tolist()))
