"""`benchmarks/moveline_build.py` in DuckDB."""

from pathlib import Path

import duckdb

from benchmarks.timed import arguments, timed

MOVELINES = """
with walks as (select user_id, list(struct_pack({token}) order by {order}) as tokens from {events} group by user_id)
select user_id, {lists}, len(tokens)::int as n_tokens, 0 as n_over_cap from walks
"""
TOKEN = ("event_time", "available_time", "scene", "action", "item_id", "category_id", "dwell_ms", "replaced_time")
ORDER = "event_time, seq, event_id, available_time"

VISITS = """
with steps as (
    select user_id, scene, category_id, action, epoch_us(event_time) as moment, seq, event_id from {events}
    where epoch_us(available_time) <= epoch_us(event_time) + 60000000
      and not coalesce(epoch_us(replaced_time) <= epoch_us(event_time) + 60000000, false)),
begun as (
    select *, coalesce(lag(scene) over walk <> scene or moment - lag(moment) over walk > 1800000000, true)::int as begins
    from steps window walk as (partition by user_id order by moment, seq, event_id, scene)),
numbered as (
    select *, sum(begins) over (partition by user_id order by moment, seq, event_id, scene rows unbounded preceding) as visit
    from begun),
stays as (
    select user_id, visit, any_value(scene) as scene, min(moment) as entry, max(moment) as last, count(*) as n_tokens,
        count(*) filter (action = 'click') as n_clicked, count(*) filter (action = 'cart') as n_carted
    from numbered group by user_id, visit),
counted as (
    select user_id, visit, category_id, count(*) as n from numbered where category_id is not null group by all),
placed as (
    select *, row_number() over (partition by user_id, visit order by n desc, category_id) as place from counted
    qualify place <= 3),
tops as (select user_id, visit, list(category_id order by place) as categories from placed group by all),
closing as (
    select *, lead(entry) over (partition by user_id order by visit) as after,
        row_number() over (partition by user_id, entry order by visit) - 1 as seq
    from stays),
closed as (
    select *, coalesce(after - last <= 1800000000, false) as followed,
        case when followed then after else last + 1800000000 end as closed_us,
        case when followed then after else last end - entry as dwell
    from closing)
select user_id, scene, make_timestamptz(entry) as entry_time, seq::int as seq, make_timestamptz(closed_us) as closed_time,
    make_timestamptz(closed_us + 60000000) as available_time, dwell // 1000 as dwell_ms, 0 as n_shown, n_clicked::int as n_clicked,
    n_carted::int as n_carted, n_tokens::int as n_tokens, coalesce(categories, []::varchar[]) as categories
from closed left join tops using (user_id, visit)
"""

PAGES = """
with ready as (
    select *, greatest(epoch_us(event_time) + 1, epoch_us(available_time)) as ready,
        coalesce(epoch_us(replaced_time), 9223372036854775807) as until
    from {events}),
walks as (
    select user_id, list(struct_pack(ready, until, event_time, scene, action, item_id, category_id) order by {order}) as tokens
    from ready group by user_id),
known as (
    select cuts.*, list_filter(coalesce(tokens, []),
        lambda t: t.ready <= epoch_us(cut_time) and epoch_us(cut_time) < t.until)[-50:] as known
    from {cuts} as cuts left join walks using (user_id))
select page_id, user_id, cut_time, {lists} from known
"""
CONTEXT = {"moveline_time": "event_time", "moveline_scene": "scene", "moveline_action": "action", "moveline_item": "item_id",
           "moveline_category": "category_id"}


def main() -> None:
    """Each stage as one statement that copies to a Parquet file."""
    asked = arguments()
    base = duckdb.connect()
    base.execute("set TimeZone = 'UTC'")
    names = {name: f"read_parquet('{asked.input / name}/*.parquet')" for name in ("events", "cuts")}

    def copy(statement: str, path: Path, **parts: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        base.execute(f"copy ({statement.format(**names, **parts)}) to '{path}' (format parquet, compression zstd)")

    tokens = ", ".join(f"list_transform(tokens, lambda t: t.{name}) as {name}" for name in TOKEN)
    last = ", ".join(f"list_transform(known, lambda t: t.{of}) as {name}" for name, of in CONTEXT.items())
    timed({"movelines": lambda path: copy(MOVELINES, path, lists=tokens, token=", ".join(TOKEN), order=ORDER),
           "visits": lambda path: copy(VISITS, path),
           "pages": lambda path: copy(PAGES, path, lists=last, order=ORDER)}, asked)


if __name__ == "__main__":
    main()
