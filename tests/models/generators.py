"""Untrained generators of the small log of `tests.models.registered`."""

from datetime import timedelta
from pathlib import Path

import pyarrow as pa

from feature_store.vocabulary import Vocabulary
from models.artifact import Weights, save_artifact
from models.embeddings import capacities
from models.generator import part_folder, seal
from models.nif import Nif
from tests.models.registered import IDS, START, vocabulary

SETTINGS = {"dim": 8, "layers": 1, "heads": 2, "future": 3}


def older() -> Vocabulary:
    """The vocabulary of `registered`, when it did not yet know the last ten items."""
    entries = vocabulary().entries().to_pylist()
    for row in entries:
        row["first_time"] = START + timedelta(days=row["id"] in IDS["item"][-10:])
    return Vocabulary(pa.Table.from_pylist(entries), 4).as_of(START + timedelta(hours=1))


def generator(folder: Path, words: Vocabulary, folds: int = 1, last_future: int = 0, seed: int = 1,
              repeat: float | None = None) -> Path:
    """The folder of an untrained generator; repeat : what an item of the walk gains, for one that learns it."""
    folder.mkdir(parents=True, exist_ok=True)
    words.save(folder / "words.parquet")
    for fold in range(folds):
        settings = {**SETTINGS, "seed": seed + fold, "repeats": repeat is not None}
        model = Nif.build(settings, capacities({field: words.rows(field) for field in IDS}))
        if model.repeat is not None:
            model.repeat.data.fill_(repeat or 0.0)
        save_artifact(part_folder(folder, fold), model, Weights(model.state_dict(), {}), folder / "words.parquet")
    seal(folder, folds, last_future)
    return folder
