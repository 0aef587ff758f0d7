"""Encoded rows with one scenario held out: whatever a model learns from, its vocabulary included, comes from the other scenarios.

Made from the encoded sets of a window without Spark: rows are chosen by their scenario, and an id that no training row of the other
scenarios holds is from then on unknown, in its out-of-vocabulary bucket, just as if the vocabulary had never had it.
"""

import shutil
import uuid
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from feature_store.batch import TABLES
from feature_store.collate import flat, renumbered
from feature_store.day_commits import fingerprint
from feature_store.encoded_set import EncodedFile, EncodedSet, file_digest
from feature_store.encoding import BUCKET_ROWS
from feature_store.errors import ModelError
from feature_store.vocabulary import FIELDS, Vocabulary
from jobs.train_models import Part
from models.artifact import VOCABULARY

_TRAIN, _TEST = "train", "test"
_SCENARIO = "scenario"


def scenarios_of(test_set: EncodedSet, words: Vocabulary) -> dict[str, int]:
    """Test pages by scenario, most first. Scenarios that the vocabulary does not know have no name and are left out."""
    entries = words.entries(_SCENARIO)
    name = dict(zip(entries["index"].to_pylist(), entries["id"].to_pylist(), strict=True))
    pages = Counter[int]()
    for path in test_set.paths:
        found = pq.read_table(path, columns=[_SCENARIO])[_SCENARIO].value_counts()
        pages.update({int(row["values"]): int(row["counts"]) for row in found.to_pylist()})
    known = {name[index]: count for index, count in pages.items() if index in name}
    return dict(sorted(known.items(), key=lambda one: (-one[1], one[0])))


def hold_out(sets: Mapping[str, EncodedSet], words: Vocabulary, scenario: str, folder: Path) -> Part:
    """Training and validation pages of all other scenarios, test pages of this one, and the vocabulary of the former; or find them.

    Raises
    ------
    ModelError : the vocabulary has no such scenario.
    """
    if not folder.is_dir():
        entries = words.entries(_SCENARIO)
        place = pc.index(entries["id"], scenario).as_py()
        if place < 0:
            raise ModelError(f"no scenario {scenario!r} among those of the training days: {', '.join(entries['id'].to_pylist())}")
        aside = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        try:
            _write(sets, words, entries["index"][place].as_py(), aside)
            if not folder.is_dir():  # else another run has made the same meanwhile
                aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
    return Part({role: EncodedSet.load(folder / role) for role in sets}, folder / VOCABULARY)


def _write(sets: Mapping[str, EncodedSet], words: Vocabulary, scenario: int, folder: Path) -> None:
    kept = _only(words, _occurring(sets[_TRAIN], scenario))
    index = {field: kept.translated(field, words) for field in FIELDS}
    for role, source in sets.items():
        (folder / role).mkdir(parents=True)
        _write_set(source, folder / role, scenario, role == _TEST, index, kept)
    kept.save(folder / VOCABULARY)


def _occurring(train: EncodedSet, scenario: int) -> dict[str, np.ndarray]:
    """Field -> which of its indexes the training rows of other scenarios hold in any feature, [rows] bool."""
    found = {field: np.zeros(train.table_rows[field], bool) for field in FIELDS}
    for path in train.paths:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                rows = _chosen(file.read_row_group(group), scenario, False)
                for field, own in found.items():
                    for feature in TABLES[field]:
                        own[flat(rows, feature)] = True
    return found


def _only(words: Vocabulary, occurring: Mapping[str, np.ndarray]) -> Vocabulary:
    parts = [entries.filter(pa.array(occurring[field][entries["index"].to_numpy()]))
             for field in FIELDS if (entries := words.entries(field)).num_rows]
    return Vocabulary(pa.concat_tables([words.entries().slice(0, 0), *parts]), words.buckets)


def _chosen(rows: pa.Table, scenario: int, own: bool) -> pa.Table:
    return rows.filter(pc.equal(rows[_SCENARIO], scenario) if own else pc.not_equal(rows[_SCENARIO], scenario)).combine_chunks()


def _write_set(source: EncodedSet, folder: Path, scenario: int, own: bool, index: Mapping[str, np.ndarray],
               kept: Vocabulary) -> None:
    files, row, user, times = list[EncodedFile](), 0, 0, list[int]()
    for path in map(Path, source.paths):
        rows = items = 0
        with pq.ParquetFile(path) as file, pq.ParquetWriter(folder / path.name, file.schema_arrow, compression="zstd") as writer:
            for group in range(file.num_row_groups):  # a user lies in one row group, and still does
                pages = _encoded(_chosen(file.read_row_group(group), scenario, own), index, row, user)
                if len(pages):
                    writer.write_table(pages, row_group_size=len(pages))
                    row, user = row + len(pages), int(pages["user"][-1].as_py()) + 1
                    rows, items = rows + len(pages), items + int(flat(pages, "n_items").sum())
                    times += [int(flat(pages, "cut_time").min()), int(flat(pages, "cut_time").max())]
        written = folder / path.name
        if rows:
            files.append(EncodedFile(path.name, written.stat().st_size, rows, items, file_digest(written)))
        else:
            written.unlink()
    counts = {"in": source.rows, "out": row, "other_scenario": source.rows - row}
    EncodedSet(
        str(folder), source.name, source.kind, fingerprint({"from": source.key, "scenario": scenario, "vocabulary": kept.digest}),
        tuple(files), {field: kept.rows(field) for field in FIELDS} | BUCKET_ROWS, kept.digest, source.table, source.version,
        source.days, counts, min(times, default=0), max(times, default=0)).save()


def _encoded(pages: pa.Table, index: Mapping[str, np.ndarray], first_row: int, first_user: int) -> pa.Table:
    """The pages with rows and users numbered from here on, and every id by its index in the new vocabulary."""
    users = np.cumsum(np.diff(flat(pages, "user"), prepend=flat(pages, "user")[:1]) != 0) + first_user
    columns = {name: pages[name] for name in pages.column_names}
    columns |= {"row": pa.array(np.arange(first_row, first_row + len(pages))), "user": pa.array(users)}
    for field, own in index.items():
        columns |= {feature: renumbered(pages, feature, own) for feature in TABLES[field]}
    return pa.table([columns[name] for name in pages.column_names], schema=pages.schema)
