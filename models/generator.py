"""A frozen generator: the flow of pages, in training and when served. Loads torch, never Spark or petastorm.

An artifact of a generator is one model, or one model a fold of users (the first in the folder itself, the others below it): a user
always gets the flow of the model that was not trained on them. Pages come encoded with the vocabulary of the model that reads the
flow; the generator has its own, usually an older one, and finds in it every id that it knew.
"""

import hashlib
import json
import logging
import shutil
import time
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch import Tensor

from feature_store.collate import flat, jagged, renumbered
from feature_store.encoded_set import EncodedSet, file_digest
from feature_store.encoding import TOKEN_FEATURES, VISIT_DENSE, VISIT_FEATURES
from feature_store.errors import ModelError
from feature_store.folds import fold_of
from feature_store.revision import source_digest
from feature_store.vocabulary import FIELDS, Vocabulary
from models.artifact import VOCABULARY, WEIGHTS, describe, load_artifact
from models.nif import Nif

GENERATOR = "generator"
"""Folder of the generator inside the artifact of a model that reads its flow."""

_ABOUT = "generator.json"
_PAGES_AT_ONCE = 512
_HISTORY = (*TOKEN_FEATURES, *VISIT_FEATURES)
_CODE = ("feature_store.collate", "feature_store.encoding", "feature_store.folds", "feature_store.vocabulary", "models.attention",
         "models.embeddings", "models.generator", "models.layers", "models.moveline", "models.nif")
log = logging.getLogger("moveline.train")


@dataclass(frozen=True)
class _Part:
    """The model of one fold, its vocabulary, and by field its index of every index of the pages' vocabulary."""

    model: Nif
    words: Vocabulary
    index: dict[str, np.ndarray]


class Generator:
    """The models of a generator artifact, in evaluation mode.

    Parameters
    ----------
    folder : an artifact that `seal` completed. words : vocabulary that pages are encoded with; None: the generator's own.

    Attributes
    ----------
    folds : models, one a fold of users. last_future : unix microseconds of the last item any of them was trained or validated on.

    Raises
    ------
    ModelError : the folder is no complete generator, or the two vocabularies have different numbers of buckets.
    """

    def __init__(self, folder: str | Path, words: Vocabulary | None = None) -> None:
        self.folder = Path(folder)
        self.folds, self.last_future = about(folder)
        self._parts = [self._part(part_folder(folder, fold), words) for fold in range(self.folds)]
        self.words = words or self._parts[0].words

    @staticmethod
    def _part(folder: Path, words: Vocabulary | None) -> _Part:
        model = load_artifact(folder)
        if not isinstance(model, Nif):
            raise ModelError(f"{folder}: model {model.name} gives no flow; a generator is a model that reads flows, such as nif")
        own = Vocabulary.load(folder / VOCABULARY)
        return _Part(model, own, _index(words or own, own))

    @property
    def shape(self) -> tuple[int, int]:
        """K and d: steps of a flow, and numbers a step."""
        config = self._parts[0].model.config
        return config.future, config.dim

    @cached_property
    def digest(self) -> str:
        """Names all that the flow of a page depends on: settings, weights and vocabularies."""
        folders = [part_folder(self.folder, fold) for fold in range(self.folds)]
        return _digest([[describe(folder)["config"], file_digest(folder / WEIGHTS), part.words.digest]
                        for folder, part in zip(folders, self._parts, strict=True)])

    @torch.no_grad()
    def flow(self, pages: pa.Table) -> np.ndarray:
        """[B, K, d] float32 flow of encoded pages (or flows): columns user_id, `moveline_*`, `visit_*` and `VISIT_DENSE`."""
        found = np.zeros((len(pages), *self.shape), np.float32)
        fold = fold_of(pages["user_id"], self.folds)
        for number, part in enumerate(self._parts):
            place = np.flatnonzero(fold == number)
            for start in range(0, len(place), _PAGES_AT_ONCE):
                some = place[start:start + _PAGES_AT_ONCE]
                found[some] = _flow(part, pages.take(pa.array(some)))
        return found

    @torch.no_grad()
    def items(self, users: pa.Array, item: pa.Array, category: pa.Array) -> np.ndarray:
        """[n, d] unit vectors of items by raw id, as the targets of the models of some users (all arrays have n values)."""
        found, fold = np.zeros((len(users), self.shape[1]), np.float32), fold_of(users, self.folds)
        for number in range(self.folds):
            place = np.flatnonzero(fold == number)
            if len(place):
                found[place] = self.vectors(number, item.take(pa.array(place)), category.take(pa.array(place)))
        return found

    @torch.no_grad()
    def vectors(self, fold: int, item: pa.Array, category: pa.Array) -> np.ndarray:
        """[n, d] unit vectors of items by raw id, as the targets of the model of one fold."""
        part = self._parts[fold]
        ids = (part.words.encode(name, own) for name, own in (("item", item), ("category", category)))
        return part.model.items(*(torch.from_numpy(i) for i in ids)).numpy()


    @torch.no_grad()
    def lift(self, fold: int, walk: Tensor, item: Tensor) -> Tensor | float:
        """[B, n] what items [n] gain in cosine where they stand in a moveline [B, T], both as indexes of `words`."""
        return self._parts[fold].model.lift(walk, item)


def part_folder(folder: str | Path, fold: int) -> Path:
    """Where the model of a fold lies in a generator's artifact."""
    return Path(folder) if fold == 0 else Path(folder) / f"fold-{fold}"


def seal(folder: str | Path, folds: int, last_future: int) -> None:
    """Complete the artifact of a generator, once the models of all folds are in it."""
    (Path(folder) / _ABOUT).write_text(json.dumps({"folds": folds, "last_future": last_future}))


def about(folder: str | Path) -> tuple[int, int]:
    """Number of folds of a generator, and time of the last item it was trained on. Raises ModelError when it is not complete."""
    try:
        found = json.loads((Path(folder) / _ABOUT).read_text())
        return int(found["folds"]), int(found["last_future"])
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(f"{folder}: no generator ({_ABOUT} is missing or damaged); run `moveline train_model` for it") from error


def beside(artifact: str | Path, words: Vocabulary) -> Generator | None:
    """The generator that a model's artifact carries; None for a model without one."""
    folder = Path(artifact) / GENERATOR
    return Generator(folder, words) if folder.is_dir() else None


def copy_into(artifact: str | Path, generator: str | Path) -> None:
    """Put a generator into the artifact of the model that reads its flow, so that the artifact scores raw ids alone."""
    shutil.copytree(generator, Path(artifact) / GENERATOR, dirs_exist_ok=True,
                    ignore=shutil.ignore_patterns("spec.json", "result.json", "error.txt"))


def refuse_in_sample(generator: Generator, pages: Iterable[EncodedSet]) -> None:
    """No generator may have seen the rows that read its flow: it was trained before the first of them, or on other users.

    Raises
    ------
    ModelError : rows of a window lie at or before the last item that the generator was trained on; names the window.
    """
    for found in pages:
        if generator.folds == 1 and found.rows and found.first_time <= generator.last_future:
            last, first = (datetime.fromtimestamp(time // 10**6, UTC) for time in (generator.last_future, found.first_time))
            raise ModelError(
                f"window {found.name} begins at {first:%Y-%m-%d %H:%M:%S}, and the generator was trained on items up to "
                f"{last:%Y-%m-%d %H:%M:%S}: it has seen what it would predict. Give it days of its own (split.generator_days) or "
                "folds of users (split.generator_folds)")


def cached_flow(pages: EncodedSet, generator: Generator) -> Path:
    """File (.npy) with the flow of every page of an encoded set by its row, [rows, K, d] float32; computed once.

    The file lies beside the pages and is named by their bytes, the generator and its code.

    Raises
    ------
    ModelError : the pages were encoded with another vocabulary than the generator was loaded for, or rows are missing.
    """
    if pages.vocabulary != generator.words.digest:
        raise ModelError(f"{pages.folder}: encoded with another vocabulary than the generator was loaded for")
    key = _digest({"pages": pages.digest, "generator": generator.digest, "code": source_digest(*_CODE)})
    path = Path(pages.folder) / f"flow-{key}.npy"
    if path.is_file():
        return path
    started, aside = time.perf_counter(), path.with_name(f".{path.name}-{uuid.uuid4().hex}")
    try:
        _write(aside, pages, generator)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    seconds = max(time.perf_counter() - started, 1e-9)
    log.info("flow of %d pages (%s) in %.1f s: %.0f pages/s, %d bytes a page", pages.rows, pages.name, seconds,
             pages.rows / seconds, 4 * generator.shape[0] * generator.shape[1])
    return path


def _write(path: Path, pages: EncodedSet, generator: Generator) -> None:
    out: np.ndarray = np.lib.format.open_memmap(path, "w+", np.float32, (pages.rows, *generator.shape))  # type: ignore[no-untyped-call]
    done = 0
    for file in pages.paths:
        with pq.ParquetFile(file) as parquet:
            for batch in parquet.iter_batches(_PAGES_AT_ONCE, columns=["row", "user_id", *_HISTORY, *VISIT_DENSE]):
                table = pa.Table.from_batches([batch])
                if not np.array_equal(table["row"].to_numpy(), np.arange(done, done + len(table))):
                    raise ModelError(f"{file}: its rows are not numbered from {done} on; encode again")
                out[done:done + len(table)] = generator.flow(table)
                done += len(table)
    if done != pages.rows:
        raise ModelError(f"{pages.folder}: {done} pages were read, its manifest promises {pages.rows}; encode again")
    out.flush()  # type: ignore[attr-defined]


def _flow(part: _Part, pages: pa.Table) -> np.ndarray:
    for name in _HISTORY:
        field = name.split("_")[1]
        if field in part.index:
            pages = pages.set_column(pages.column_names.index(name), name, renumbered(pages, name, part.index[field]))
    dense = torch.from_numpy(np.stack([flat(pages, name) for name in VISIT_DENSE], axis=1))
    return part.model.flow(jagged(pages, _HISTORY, part.model.rows), dense).numpy()


def _index(words: Vocabulary, own: Vocabulary) -> dict[str, np.ndarray]:
    """By field, the index in `own` of every index of `words`: what encoding the same ids with `own` gives. Empty: they agree."""
    if words.buckets != own.buckets:
        raise ModelError(f"the generator's vocabulary has {own.buckets} out-of-vocabulary buckets, that of the pages "
                         f"{words.buckets}; train the generator again")
    return {} if words.digest == own.digest else {field: own.translated(field, words) for field in FIELDS}


def _digest(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
