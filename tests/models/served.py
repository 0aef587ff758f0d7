"""Untrained models of the whole catalog, of the small log of `tests.models.registered`, complete enough to be served."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_store.encoding import ENCODED_PAIRS, encode_history, encode_pages
from feature_store.vocabulary import Vocabulary
from models.artifact import VOCABULARY, Weights, load_artifact, save_artifact
from models.catalog import model_class
from models.embeddings import capacities
from models.generator import Generator, beside, copy_into
from models.kinds import READS
from models.registry import Candidate
from models.scoring import page_scores, pair_scores
from models.serving import FLOW_COLUMNS, PAGE_COLUMNS, serving_pages
from tests.models.generators import generator, older
from tests.models.registered import IDS, example, raw_pages, vocabulary

SETTINGS: dict[str, dict[str, Any]] = {"amen": {"generator": "nif", "dim": 8, "heads": 2, "future": 3}}


def whole_artifact(folder: Path, name: str) -> Path:
    """The folder of an untrained model whose scores differ from item to item, with a generator of two folds if it reads one."""
    if READS[name] == "flows":
        return generator(folder / "artifact", older(), folds=2)
    words, settings = vocabulary(), SETTINGS.get(name, {})
    folder.mkdir(parents=True)
    words.save(folder / "words.parquet")
    model = model_class(name).build(settings, capacities({field: words.rows(field) for field in IDS}))
    weights = {key: tensor * (8 if "embeddings" in key else 1) for key, tensor in model.state_dict().items()}
    made = save_artifact(folder / "artifact", model, Weights(weights, {}), folder / "words.parquet")
    if "generator" in settings:
        copy_into(made, generator(folder / "generator", older(), folds=2))
    return made


def whole_example(name: str, count: int = 6) -> pd.DataFrame:
    """Rows of the small log as the deployed model takes them; pairs are two."""
    if READS[name] == "pairs":
        return example(name)
    return serving_pages(raw_pages(count), FLOW_COLUMNS if READS[name] == "flows" else PAGE_COLUMNS)


def whole_candidate(folder: Path, name: str) -> Candidate:
    """The model of `whole_artifact`, ready to be registered."""
    return Candidate(f"small-{name}", "small", whole_artifact(folder, name), "f1", whole_example(name))


def encoded_scores(folder: Path, name: str) -> np.ndarray:
    """Scores (of a generator: flows) of `whole_example` as the evaluation computes them, one after the other: the rows of the table
    are encoded with the artifact's vocabulary, without a step of what serves them."""
    words, pages = Vocabulary.load(folder / VOCABULARY), raw_pages(6)
    if READS[name] == "flows":
        return Generator(folder).flow(encode_history(pages, words)).ravel()
    model = load_artifact(folder)
    if READS[name] == "pairs":
        return pair_scores(model, encoded_pairs(words))
    encoded, own = encode_pages(pages, words), beside(folder, words)
    return page_scores(model, encoded, own.flow(encoded) if own else None)


def encoded_pairs(words: Vocabulary) -> pa.Table:
    """The pairs of `example`, encoded; the category "" is none."""
    rows = example("item2vec").replace({"": None})
    ids = [words.encode(name.split("_")[1], pa.array(rows[name], pa.string())) for name in rows]
    rest = np.zeros(len(rows), np.int64)
    return pa.table([*ids, rest, np.ones(len(rows), np.float32), rest], schema=ENCODED_PAIRS)
