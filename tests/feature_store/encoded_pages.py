"""Random pages and vocabularies for the tests of encoding and loading."""

import random
from datetime import UTC, datetime, timedelta

import pyarrow as pa

from feature_store.contracts import PAGES
from feature_store.vocabulary import Vocabulary

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAMES = {
    "item": [f"i{n}" for n in range(40)],
    "category": ["c1", "c2", "c3"],
    "scene": ["home", "search"],
    "action": ["click", "view"],
    "scenario": ["feed"],
}


def vocabulary(buckets: int = 4) -> Vocabulary:
    rows = [(field, name, buckets + 1 + n) for field, names in NAMES.items() for n, name in enumerate(names)]
    field, names, index = (list(column) for column in zip(*rows, strict=True))
    return Vocabulary(
        pa.table({"field": field, "id": names, "index": index, "first_time": [NOON - timedelta(days=9)] * len(rows)}), buckets
    )


def random_pages(count: int, seed: int = 0, users: int | None = None, items: int = 6) -> pa.Table:
    """Random rows of PAGES, sorted by user. Some ids are unknown, some are null, some lists are empty."""
    draw = random.Random(seed)
    owners = sorted(f"u{draw.randrange(users or max(1, count // 3)):05d}" for _ in range(count))
    return pa.Table.from_pylist([_page(draw, n, user, items) for n, user in enumerate(owners)], schema=PAGES.schema)


def _page(draw: random.Random, number: int, user: str, items: int) -> dict[str, object]:
    def some(names: list[str], size: int) -> list[str]:
        return [draw.choice([*names, "unknown1", "unknown2"]) for _ in range(size)]

    cut = NOON + timedelta(seconds=number)
    shown, tokens, visits = draw.randint(1, items), draw.randint(0, 5), draw.randint(0, 3)
    return {
        "page_id": f"p{number:05d}",
        "user_id": user,
        "shown_time": cut,
        "label_time": cut + timedelta(minutes=5),
        "available_time": cut,
        "scene": draw.choice(NAMES["scene"]),
        "scenario": "feed",
        "trigger_item_id": draw.choice([None, "i1"]),
        "trigger_category_id": None,
        "trigger_source": None,
        "item_id": [str(i) for i in draw.sample([*NAMES["item"], "unknown1", "unknown2"], shown)],
        "category_id": [draw.choice([None, *NAMES["category"]]) for _ in range(shown)],
        "position": list(range(1, shown + 1)),
        "price": [draw.choice([None, 0.0, 1.0, 2.5, 80.0]) for _ in range(shown)],
        "viewed": [draw.random() < 0.8 for _ in range(shown)],
        "clicked": [draw.random() < 0.3 for _ in range(shown)],
        "ordered": [False] * shown,
        "n_merged": 0,
        "cut_time": cut,
        "moveline_time": [cut - timedelta(seconds=draw.randint(1, 10 ** draw.randint(1, 6))) for _ in range(tokens)],
        "moveline_scene": some(NAMES["scene"], tokens),
        "moveline_action": some(NAMES["action"], tokens),
        "moveline_item": [draw.choice([None, *some(NAMES["item"], 4)]) for _ in range(tokens)],
        "moveline_category": [draw.choice([None, "c1"]) for _ in range(tokens)],
        "visit_time": [cut - timedelta(seconds=draw.randint(1, 9_999)) for _ in range(visits)],
        "visit_scene": some(NAMES["scene"], visits),
        "visit_dwell_ms": [draw.randint(0, 9_999) for _ in range(visits)],
        "visit_shown": [draw.randint(0, 9) for _ in range(visits)],
        "visit_clicked": [draw.randint(0, 2) for _ in range(visits)],
        "visit_carted": [0] * visits,
        "visit_category": [draw.choice([None, "c2"]) for _ in range(visits)],
        "ds": "2026-01-02",
    }
