"""What really came after each page: the true next items, for the oracle of an ablation, never for a model that is kept."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pyspark.sql import functions as F

from feature_store.collate import flat, lengths
from feature_store.encoded_set import EncodedSet
from feature_store.recipe import Recipe
from feature_store.session import spark_session
from feature_store.tables import Lake
from jobs.context import replaced_times
from models.generator import Generator


def futures_of_pages(recipe: Recipe, lake: Lake, sets: Mapping[str, EncodedSet], folder: Path,
                     spark: Any = None) -> dict[str, Path]:
    """Parquet folders (page_id, future_item, future_category: raw ids, first item next) of the pages of some encoded sets, by role.

    As in `jobs.flows`, an interest is a token with an item and one of `flows.actions`, at or after the cut, of the page's own day;
    repeats are kept. Items of the page itself are left out: they would tell the clicks that the oracle is to foresee.
    """
    session = spark or spark_session("moveline-ablation")
    found = {}
    for role, pages in sets.items():
        found[role], days = folder / role, [d for d in pages.days if lake.table("pages").day(d)]
        if not days:
            continue
        keys = lake.read(session, "pages", days).select("page_id", "user_id", "ds", "cut_time", F.col("item_id").alias("shown"))
        tokens = F.arrays_zip("event_time", "action", "item_id", "category_id", "replaced_time").alias("tokens")
        walks = lake.read(session, "movelines", days).withColumn("replaced_time", replaced_times()).select("user_id", "ds", tokens)
        wanted = F.filter("tokens", lambda token: (token["event_time"] >= F.col("cut_time")) & token["item_id"].isNotNull()
                          & token["replaced_time"].isNull() & ~F.array_contains("shown", token["item_id"])
                          & (F.lit(True) if recipe.flows.actions is None else token["action"].isin(recipe.flows.actions)))
        ahead = F.slice(wanted, 1, recipe.flows.future)
        (keys.join(walks, ["user_id", "ds"], "left").withColumn("ahead", ahead)
         .select("page_id", F.col("ahead.item_id").alias("future_item"), F.col("ahead.category_id").alias("future_category"))
         .coalesce(4).write.mode("overwrite").parquet(str(found[role])))
    if spark is None:
        session.stop()
    return found


def oracle_flow(pages: EncodedSet, generator: Generator, futures: Path) -> np.ndarray:
    """[rows, K, d] unit vectors of the items that really came next, 0 where fewer came; by row of the encoded pages."""
    steps, dim = generator.shape
    found = np.zeros((pages.rows, steps, dim), np.float32)
    table, known = pq.read_table(futures), pages.read(["page_id", "user_id"]).combine_chunks()
    row = pc.index_in(table["page_id"], value_set=known["page_id"].combine_chunks()).fill_null(-1).to_numpy()
    count = lengths(table, "future_item")
    place, of = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count), np.repeat(row, count)
    kept = (of >= 0) & (place < steps)
    ids = [pa.array(flat(table, f"future_{field}")[kept], pa.string()) for field in ("item", "category")]
    users = known["user_id"].combine_chunks().take(pa.array(of[kept]))
    found[of[kept], place[kept]] = generator.items(users, *ids)
    return found
