"""A small log with raw ids, its vocabulary, and untrained models of it: what the tests of registry, serving and report share."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_store.contracts import PAGES
from feature_store.vocabulary import Vocabulary
from models.artifact import Weights, save_artifact
from models.catalog import model_class
from models.embeddings import capacities
from models.registry import Candidate
from models.serving import serving_pages

START = datetime(2026, 5, 1, 9, tzinfo=UTC)
IDS = {"item": [f"i{n}" for n in range(30)], "category": ["c1", "c2"], "scene": ["home", "search"], "action": ["click", "view"],
       "scenario": ["feed", "results"]}


def vocabulary() -> Vocabulary:
    """Every id of `IDS`, from index 5 on."""
    rows = [{"field": field, "id": name, "index": 5 + n, "first_time": START}
            for field, names in IDS.items() for n, name in enumerate(names)]
    return Vocabulary(pa.Table.from_pylist(rows), 4)


def raw_pages(count: int = 12, seed: int = 0) -> pa.Table:
    """Random rows of the table `pages`, some with empty lists, nulls and ids nobody knows."""
    draw = np.random.default_rng(seed)

    def some(field: str, n: int) -> list[str | None]:
        return [None if draw.random() < 0.1 else "new" if draw.random() < 0.1 else str(draw.choice(IDS[field])) for _ in range(n)]

    rows = []
    for i in range(count):
        cut = START + timedelta(minutes=i)
        shown, tokens, visits = int(draw.integers(1, 7)), int(draw.integers(0, 9)), int(draw.integers(0, 4))
        before = [[cut - timedelta(seconds=60 * (n - j)) for j in range(n)] for n in (tokens, visits)]
        rows.append({
            "page_id": f"p{i}", "user_id": f"u{i % 4}", "shown_time": cut, "label_time": cut, "available_time": cut,
            "scene": "search", "scenario": str(draw.choice(IDS["scenario"])), "trigger_item_id": some("item", 1)[0],
            "trigger_category_id": some("category", 1)[0], "trigger_source": None,
            "item_id": [str(x) for x in draw.choice(IDS["item"], shown, replace=False)], "category_id": some("category", shown),
            "position": list(range(1, shown + 1)),
            "price": [None if draw.random() < 0.2 else float(draw.random() * 9) for _ in range(shown)],
            "viewed": [True] * shown, "clicked": [bool(draw.random() < 0.3) for _ in range(shown)], "ordered": [False] * shown,
            "n_merged": 0, "cut_time": cut, "moveline_time": before[0], "moveline_scene": some("scene", tokens),
            "moveline_action": some("action", tokens), "moveline_item": some("item", tokens),
            "moveline_category": some("category", tokens), "visit_time": before[1], "visit_scene": some("scene", visits),
            "visit_dwell_ms": [1_000 * (j + 1) for j in range(visits)],
            "visit_shown": [3] * visits, "visit_clicked": [1] * visits, "visit_carted": [0] * visits,
            "visit_category": some("category", visits), "ds": "2026-05-01"})
    return pa.Table.from_pylist(rows, schema=pa.schema([f.with_nullable(True) for f in PAGES.schema]))


def artifact(folder: Path, name: str = "din") -> Path:
    """The folder of an untrained model."""
    words = vocabulary()
    folder.mkdir(parents=True, exist_ok=True)
    words.save(folder / "words.parquet")
    model = model_class(name).build({}, capacities({field: words.rows(field) for field in IDS}))
    return save_artifact(folder / "artifact", model, Weights(model.state_dict(), {}), folder / "words.parquet")


def example(name: str = "din") -> pd.DataFrame:
    """Rows as a deployed model takes them."""
    if name == "din":
        return serving_pages(raw_pages(2))
    return pd.DataFrame({"left_item": ["i1", "new"], "right_item": ["i2", "i3"], "left_category": ["c1", ""],
                         "right_category": ["c2", "new"]})


def candidate(folder: Path, name: str = "din", fingerprint: str = "f1") -> Candidate:
    """An untrained model, ready to be registered."""
    return Candidate(f"small-{name}", "small", artifact(folder, name), fingerprint, example(name), {"test.model.auc": 0.6},
                     {"dim": 16}, {"day": "2026-05-01"}, {0: {"train.loss": 0.7}, 1: {"train.loss": 0.6}})
