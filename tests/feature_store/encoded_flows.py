"""Random flows for the tests of encoding, loading and training a generator."""

import random
from datetime import datetime, timedelta

import pyarrow as pa

from feature_store.contracts import FLOWS
from tests.feature_store.encoded_pages import NAMES, NOON, random_pages

_CONTEXT = [name for name in FLOWS.schema.names if name.startswith(("moveline_", "visit_"))]


def random_flows(count: int, seed: int = 0, users: int | None = None, start: datetime = NOON, future: int = 5,
                 seconds: int = 60) -> pa.Table:
    """Random rows of FLOWS, sorted by user: row n is cut n * `seconds` after `start`, its futures follow every ten minutes."""
    draw = random.Random(seed)
    rows = []
    for n, page in enumerate(random_pages(count, seed, users).to_pylist()):
        cut = start + timedelta(seconds=seconds * n)
        ahead, back = draw.randint(1, future), page["cut_time"] - cut
        rows.append({
            "user_id": page["user_id"], "cut_time": cut, **{name: page[name] for name in _CONTEXT},
            "moveline_time": [t - back for t in page["moveline_time"]], "visit_time": [t - back for t in page["visit_time"]],
            "future_item": [draw.choice([*NAMES["item"], "unknown1"]) for _ in range(ahead)],
            "future_category": [draw.choice([None, *NAMES["category"]]) for _ in range(ahead)],
            "future_scene": [draw.choice(NAMES["scene"]) for _ in range(ahead)],
            "future_action": [draw.choice(NAMES["action"]) for _ in range(ahead)],
            "future_time": [cut + timedelta(minutes=10 * k) for k in range(ahead)], "ds": str(cut.date())})
    return pa.Table.from_pylist(rows, schema=FLOWS.schema)
