"""A large raw log of two days, as Parquet files by day: events, pages shown, items. Rows are drawn many at once.

Users have a category they like. Half of what they do concerns its items, half popular items; shown items of it, and items of high
quality, are likelier clicked, so that a model has something to learn. 2 % of the events are known up to ten minutes late.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.moveline_build import ACTIONS, ITEMS_A_CATEGORY, SCENES, chosen, names, times, walked
from feature_store.contracts import INT

DAYS = ("2026-03-02", "2026-03-03")
_DAY_S = 86_400
_USERS_A_FILE = 50_000
SHOWN = 10


@dataclass(frozen=True)
class Size:
    """How large the log is: events and pages of both days together (about), users, items."""

    events: int = 20_000_000
    users: int = 1_000_000
    items: int = 1_000_000
    pages: int = 400_000


@dataclass
class Rows:
    """How many rows of each kind were written."""

    events: int = 0
    exposures: int = 0
    items: int = 0


class Shop:
    """What users like and what items are worth: both drawn once."""

    def __init__(self, size: Size, draw: np.random.Generator) -> None:
        self.size = size
        self.categories = -(-size.items // ITEMS_A_CATEGORY)
        self.liked = draw.integers(0, self.categories, size.users)
        self.quality = draw.normal(size=size.items)

    def of_interest(self, user: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """[n] an item for each of some users: of the category they like, or popular."""
        liked = self.liked[user] * ITEMS_A_CATEGORY + draw.integers(0, ITEMS_A_CATEGORY, len(user))
        popular = (self.size.items * draw.random(len(user)) ** 3).astype(np.int64)
        return np.where((draw.random(len(user)) < 0.5) & (liked < self.size.items), liked, popular)

    def clicked(self, user: np.ndarray, item: np.ndarray, draw: np.random.Generator) -> np.ndarray:
        """[n] whether each user clicked each item, had it been seen."""
        logit = -2.5 + 0.7 * self.quality[item] + 1.5 * (item // ITEMS_A_CATEGORY == self.liked[user])
        return draw.random(len(user)) < 1 / (1 + np.exp(-logit))


def walks(shop: Shop, users: np.ndarray, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """User and second of the day of every event of a day, by user and time."""
    mean = shop.size.events / len(DAYS) / shop.size.users
    sizes = np.ceil(mean * draw.lognormal(-0.7**2 / 2, 0.7, len(users)) - 0.5).astype(np.int64)
    return np.repeat(users, sizes), np.minimum(walked(sizes, _DAY_S * 5 // 6, draw), _DAY_S - 1).astype(np.int64)


def events(shop: Shop, at: np.ndarray, user: np.ndarray, first_id: int, draw: np.random.Generator) -> pa.Table:
    """The raw rows of some events; at : unix seconds."""
    rows = len(at)
    item, none = shop.of_interest(user, draw), draw.random(rows) < 0.1
    scene, action = draw.integers(0, len(SCENES), rows), draw.integers(0, len(ACTIONS), rows)
    late = np.where(draw.random(rows) < 0.02, draw.integers(0, 600, rows), 0)
    return pa.table({
        "event_id": names("e", first_id + np.arange(rows)), "user_id": names("u", user), "event_time": times(at),
        "seq": pa.array(np.arange(rows)), "available_time": times(at + late),
        "scene": chosen(SCENES, scene), "action": chosen(ACTIONS, action),
        "item_id": names("i", item, none), "category_id": names("c", item // ITEMS_A_CATEGORY, none),
        "dwell_ms": pa.array(draw.integers(0, 60_000, rows))})


def exposures(shop: Shop, shown: np.ndarray, user: np.ndarray, first_id: int, draw: np.random.Generator) -> pa.Table:
    """The raw rows of some pages, `SHOWN` items each, all different; shown : unix seconds."""
    page = np.repeat(np.arange(len(shown)), SHOWN)
    of, at, item = user[page], shown[page], shop.of_interest(user[page], draw)
    position = np.tile(np.arange(SHOWN), len(shown))
    viewed = draw.random(len(page)) < 1 - position / (2 * SHOWN)
    clicked = viewed & shop.clicked(of, item, draw)
    made = pa.table({
        "page_id": names("p", first_id + page), "user_id": names("u", of), "shown_time": times(at), "label_time": times(at + 60),
        "item_id": names("i", item), "position": pa.array(position).cast(INT), "viewed": pa.array(viewed),
        "clicked": pa.array(clicked), "click_time": times(at + 10, ~clicked)})
    _, once = np.unique(page * shop.size.items + item, return_index=True)
    return made.take(pa.array(np.sort(once)))


def items(shop: Shop, since: int) -> pa.Table:
    """All items, valid from a moment on."""
    item = np.arange(shop.size.items)
    return pa.table({"item_id": names("i", item), "category_id": names("c", item // ITEMS_A_CATEGORY),
                     "valid_from": times(np.full(len(item), since))})


def write(folder: Path, size: Size) -> Rows:
    """Write the log below a folder: `events/ds=.../`, `exposures/ds=.../`, `items/ds=.../`."""
    shop, found = Shop(size, np.random.default_rng(0)), Rows(items=size.items)
    start = int(np.datetime64(DAYS[0], "s").astype(np.int64))
    _save(items(shop, start), folder / "items" / f"ds={DAYS[0]}" / "part-000.parquet")
    pages = 0
    for number, ds in enumerate(DAYS):
        for part, users in enumerate(_blocks(size.users)):
            draw = np.random.default_rng((number, part))
            user, second = walks(shop, users, draw)
            at = start + number * _DAY_S + second
            own = events(shop, at, user, found.events, draw)
            after = draw.choice(len(at), min(len(at), round(size.pages / size.events * len(at))), replace=False)
            shown = np.minimum(at[after] + draw.integers(1, 60, len(after)), start + (number + 1) * _DAY_S - 1)
            pages_shown = exposures(shop, shown, user[after], pages, draw)
            for kind, rows in {"events": own, "exposures": pages_shown}.items():
                _save(rows.take(pa.array(draw.permutation(len(rows)))), folder / kind / f"ds={ds}" / f"part-{part:03d}.parquet")
            pages, found.events = pages + len(after), found.events + len(own)
            found.exposures += len(pages_shown)
    return found


def _save(rows: pa.Table, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(rows, path, compression="zstd")


def _blocks(users: int) -> Iterator[np.ndarray]:
    return (np.arange(first, min(first + _USERS_A_FILE, users)) for first in range(0, users, _USERS_A_FILE))
