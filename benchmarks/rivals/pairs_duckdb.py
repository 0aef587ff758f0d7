"""`benchmarks/pairs.py` in DuckDB."""

from pathlib import Path

import duckdb

from benchmarks.timed import arguments, timed

PAIRS = """
with zipped as (select page_id, unnest(item_id) as item, unnest(clicked) as clicked, unnest(viewed) as viewed from {pages}),
items as (select page_id, item, clicked::int as clicked from zipped where viewed)
select page_id, a.item as left_item, b.item as right_item,
    case a.clicked + b.clicked when 2 then 'co_click' when 1 then 'mono_click' else 'co_non_click' end as kind
from items as a join items as b using (page_id) where a.item < b.item
"""
COUNTS = f"""
with counted as (
    select page_id, count(*) filter (kind = 'co_click') as co_click, count(*) filter (kind = 'co_non_click') as co_non_click,
        count(*) filter (kind = 'mono_click') as mono_click
    from ({PAIRS}) group by page_id)
select pages.page_id, coalesce(co_click, 0) as co_click, coalesce(co_non_click, 0) as co_non_click,
    coalesce(mono_click, 0) as mono_click
from {{pages}} as pages left join counted using (page_id)
"""


def main() -> None:
    """Each stage as one statement that copies to a Parquet file."""
    asked = arguments()
    base = duckdb.connect()
    pages = f"read_parquet('{asked.input}/pages/*.parquet')"

    def copy(statement: str, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        base.execute(f"copy ({statement.format(pages=pages)}) to '{path}' (format parquet, compression zstd)")

    timed({"counts": lambda path: copy(COUNTS, path), "pairs": lambda path: copy(PAIRS, path)}, asked)


if __name__ == "__main__":
    main()
