"""Judge a trained model on a held-out encoded set, beside the baselines, and beside the truth where the log is simulated."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
import pyarrow.parquet as pq

from feature_store.collate import flat, flow_of_rows
from feature_store.contracts import PAIR_KINDS
from feature_store.encoded_set import EncodedSet
from feature_store.errors import ModelError
from feature_store.vocabulary import Vocabulary
from models.artifact import VOCABULARY, load_artifact
from models.base import Model
from models.baselines import Baselines
from models.evaluation import Result, Shown, evaluate_pages, evaluate_pairs
from models.generator import beside, cached_flow, part_folder
from models.metrics import Floats, sums_by
from models.nif import Nif
from models.report import DataPicture
from models.scoring import page_scores, pair_scores

ROWS_AT_ONCE = 4_096
_TRAIN_COLUMNS = ["candidate_item", "candidate_position", "clicked", "weight"]
_SHOWN_COLUMNS = [*Shown.COLUMNS, "candidate_position"]


def evaluate(artifact: str | Path, train_set: EncodedSet, test_set: EncodedSet, truth: str | Path | None = None,
             flow: str | Path | None = None) -> Result:
    """Metrics of a model with intervals (`models.evaluation`).

    Parameters
    ----------
    artifact : folder of the model, with its vocabulary. train_set : rows the baselines count. test_set : rows to judge on.
    truth : folder `truth` of a simulated log; ignored when it does not exist.
    flow : file with another flow of the test pages than that of the artifact's own generator (an ablation).

    Raises
    ------
    ModelError : the test set is empty, or the model reads another kind of rows. TableError : the sets have another vocabulary.
    """
    model = load_artifact(artifact)
    if not test_set.rows:
        raise ModelError(f"model {model.name}: the test set {test_set.folder} has no rows; see `split` in the recipe")
    if not train_set.kind == test_set.kind == model.reads:
        raise ModelError(f"model {model.name} reads {model.reads}, not {test_set.kind}; see {test_set.folder}")
    words = Vocabulary.load(Path(artifact) / VOCABULARY)
    if model.reads == "pairs":
        return _pairs(model, train_set, test_set)
    frozen = beside(artifact, words)
    file = cached_flow(test_set, frozen) if frozen and flow is None else flow
    ahead = None if file is None else np.load(file, mmap_mode="r", allow_pickle=False)
    return _pages(model, words, train_set, test_set, Path(truth) if truth and Path(truth).is_dir() else None, ahead)


def evaluate_generator(artifact: str | Path, folds: Sequence[Mapping[str, EncodedSet]]) -> Result:
    """Recall of the next items of held-out walks (`models.flow_evaluation`), over the models of all folds.

    Parameters
    ----------
    artifact : folder of the generator. folds : for each fold its sets `train` and `test`.
    """
    from models.flow_evaluation import evaluate_flows, find_futures

    hits = []
    for fold, sets in enumerate(folds):
        model = load_artifact(part_folder(artifact, fold))
        if not isinstance(model, Nif):
            raise ModelError(f"model {model.name} reads {model.reads}; a generator is a model that reads flows, such as nif")
        hits.append(find_futures(model, sets["test"], sets["train"].pool))
    return evaluate_flows(hits)


def picture(test_set: EncodedSet, pair_counts: Mapping[str, int]) -> DataPicture:
    """What a report shows of the data: the pages (or cuts of walks) of an encoded set, none for pairs, and pair counts."""
    found = DataPicture(pair_counts=dict(pair_counts))
    for part in tables(test_set, ["moveline_item", "visit_scene"]) if test_set.kind != "pairs" else ():
        found.add_pages(part)
    return found


def tables(source: EncodedSet, columns: list[str] | None = None) -> Iterator[pa.Table]:
    """The rows of an encoded set in order, some thousands at a time."""
    for path in source.paths:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS_AT_ONCE, columns=columns):
                yield pa.Table.from_batches([batch])


def names(words: Vocabulary, field: str) -> dict[int, str]:
    """Index -> id of a small field (scenes, scenarios)."""
    own = words.entries(field)
    return dict(zip(own["index"].to_pylist(), own["id"].to_pylist(), strict=True))


def save(result: Result, path: Path) -> None:
    """Write a result as JSON, in one step."""
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(result, allow_nan=False, indent=1))
    aside.replace(path)


def _pages(model: Model, words: Vocabulary, train_set: EncodedSet, test_set: EncodedSet, truth: Path | None,
           flow: np.ndarray | None) -> Result:
    fitted = Baselines.fit(tables(train_set, _TRAIN_COLUMNS), words.buckets)
    scores: list[Floats] = []
    others: dict[str, list[Floats]] = {}
    shown: list[pa.Table] = []
    for part in tables(test_set):
        scores.append(page_scores(model, part, None if flow is None else flow_of_rows(flow, part["row"].to_numpy())))
        for name, own in fitted.scores(part).items():
            others.setdefault(name, []).append(own)
        shown.append(part.select(_SHOWN_COLUMNS))
    table = pa.concat_tables(shown).combine_chunks()
    items = Shown.of(table, names(words, "scenario"))
    known = None if truth is None else true_probabilities(truth, items, flat(table, "candidate_position"), test_set.days)
    return evaluate_pages(items, np.concatenate(scores), {name: np.concatenate(own) for name, own in others.items()}, known)


def true_probabilities(folder: Path, items: Shown, position: np.ndarray, days: tuple[str, ...]) -> Floats:
    """[N] the simulator's probability that a viewed item is clicked, joined by page and position; nan where it knows none."""
    source = pads.dataset(folder, format="parquet", partitioning=pads.partitioning(pa.schema([("ds", pa.string())]), flavor="hive"))
    found = source.to_table(columns=["page_id", "position", "click_probability"], filter=pc.field("ds").isin(list(days)))
    place = pd.Index(items.page_id).get_indexer(pd.Index(found["page_id"].to_numpy()))
    width = 1 + int(max(position.max(initial=0), found["position"].to_numpy().max(initial=0)))
    key = place * width + found["position"].to_numpy()
    value = np.append(found["click_probability"].to_numpy(), np.nan)
    order = np.argsort(key, kind="stable")
    asked = items.page * width + position
    at = np.append(order, len(order))[np.searchsorted(key[order], asked)]
    return np.where(np.append(key, -1)[at] == asked, value[at], np.nan)


def _pairs(model: Model, train_set: EncodedSet, test_set: EncodedSet) -> Result:
    """Beside popularity stands the base rate: one score for every pair, whichever, since only their order counts."""
    together = _co_click_counts(train_set)
    parts = [(pair_scores(model, part), *(flat(part, c) for c in ("kind", "weight", "page")), _popularity(together, part))
             for part in tables(test_set)]
    score, kind, weight, page, popular = (np.concatenate(column) for column in zip(*parts, strict=True))
    return evaluate_pairs(score, kind, weight, page, {"popularity": popular, "base_rate": np.zeros(len(score))})


def _co_click_counts(train_set: EncodedSet) -> Floats:
    """How often (weighted) each item is part of a co-click pair of the training rows."""
    counts = np.zeros(0)
    for part in tables(train_set):
        kept = flat(part, "kind") == PAIR_KINDS.index("co_click")
        for side in ("left", "right"):
            own = sums_by(flat(part, side)[kept], flat(part, "weight")[kept].astype(np.float64), len(counts))
            own[: len(counts)] += counts
            counts = own
    return np.append(counts, 0.0)


def _popularity(counts: Floats, pairs: pa.Table) -> Floats:
    left, right = (np.log1p(counts[np.minimum(flat(pairs, side), len(counts) - 1)]) for side in ("left", "right"))
    return left + right
