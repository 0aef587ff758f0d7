"""A frozen generator: every page gets the flow of its own row, by its own vocabulary, from a model that never saw its user."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.batch import BUCKET_ROWS
from feature_store.encoded_set import EncodedFile, EncodedSet, file_digest
from feature_store.encoding import encode_pages
from feature_store.errors import ModelError
from feature_store.folds import fold_of
from feature_store.vocabulary import FIELDS, Vocabulary
from models.generator import Generator, beside, cached_flow, copy_into
from models.serving import FLOW_COLUMNS, Deployed, serving_pages
from tests.models.generators import generator, older
from tests.models.registered import artifact, raw_pages, vocabulary

PAGES = raw_pages(40)


def encoded_set(folder: Path, words: Vocabulary) -> EncodedSet:
    """`PAGES` as an encoded set of two files."""
    folder.mkdir(parents=True)
    encoded, files = encode_pages(PAGES, words), []
    for name, part in (("a.parquet", encoded.slice(0, 11)), ("b.parquet", encoded.slice(11))):
        pq.write_table(part, folder / name, row_group_size=7)
        files.append(EncodedFile(name, (folder / name).stat().st_size, len(part), 1, file_digest(folder / name)))
    rows = {field: words.rows(field) for field in FIELDS} | BUCKET_ROWS
    return EncodedSet(str(folder), "train", "pages", "k", tuple(files), rows, words.digest, "pages", 0, ("2026-05-01",))


def test_pages_of_a_newer_vocabulary_get_the_flow_of_pages_encoded_with_the_generators_own(tmp_path: Path) -> None:
    folder = generator(tmp_path, older())
    own = Generator(folder).flow(encode_pages(PAGES, older()))
    assert own.shape == (40, 3, 8) and np.abs(np.linalg.norm(own, axis=2) - 1).max() < 1e-5
    assert np.abs(Generator(folder, vocabulary()).flow(encode_pages(PAGES, vocabulary())) - own).max() < 1e-6
    assert np.abs(Generator(folder).flow(encode_pages(PAGES, vocabulary())) - own).max() > 1e-3


def test_a_user_gets_the_flow_of_the_model_of_the_users_fold(tmp_path: Path) -> None:
    pages = encode_pages(PAGES, vocabulary())
    both = Generator(generator(tmp_path / "both", vocabulary(), folds=2))
    fold = fold_of(pages["user_id"], 2)
    assert both.folds == 2 and set(fold) == {0, 1}
    for number in (0, 1):
        alone = Generator(generator(tmp_path / str(number), vocabulary(), seed=1 + number)).flow(pages)
        assert np.abs(both.flow(pages)[fold == number] - alone[fold == number]).max() < 1e-6
        assert np.abs(both.flow(pages)[fold != number] - alone[fold != number]).max() > 1e-3


def test_the_flow_of_a_set_is_computed_once_and_lies_by_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pages = encoded_set(tmp_path / "pages", vocabulary())
    frozen = Generator(generator(tmp_path / "nif", older()), vocabulary())
    path = cached_flow(pages, frozen)
    assert np.abs(np.load(path) - frozen.flow(pages.read())).max() < 1e-6
    with monkeypatch.context() as patch:
        patch.setattr(Generator, "flow", None)
        assert cached_flow(pages, frozen) == path
    other = Generator(generator(tmp_path / "other", older(), seed=5), vocabulary())
    assert other.digest != frozen.digest and cached_flow(pages, other) != path
    assert [p.name for p in Path(pages.folder).iterdir() if p.name.startswith(".")] == []


def test_pages_of_another_vocabulary_and_rows_out_of_order_are_refused(tmp_path: Path) -> None:
    frozen = Generator(generator(tmp_path / "nif", older()))
    with pytest.raises(ModelError, match="encoded with another vocabulary"):
        cached_flow(encoded_set(tmp_path / "pages", vocabulary()), frozen)
    wrong = encoded_set(tmp_path / "wrong", older())
    table = pq.read_table(wrong.paths[1])
    place = table.column_names.index("row")
    pq.write_table(table.set_column(place, "row", pa.array(np.arange(12, 12 + len(table)))), wrong.paths[1])
    with pytest.raises(ModelError, match=r"b.parquet: its rows are not numbered from 11 on"):
        cached_flow(wrong, frozen)
    assert [p.name for p in Path(wrong.folder).iterdir() if "flow" in p.name] == []


def test_vocabularies_with_other_buckets_and_folders_without_a_generator_are_refused(tmp_path: Path) -> None:
    folder = generator(tmp_path / "nif", older())
    with pytest.raises(ModelError, match="has 4 out-of-vocabulary buckets, that of the pages 2"):
        Generator(folder, Vocabulary(vocabulary().entries(), 2))
    (folder / "generator.json").unlink()
    with pytest.raises(ModelError, match=r"no generator \(generator.json is missing"):
        Generator(folder)
    assert beside(tmp_path, vocabulary()) is None


def test_a_deployed_generator_gives_the_flow_of_raw_rows(tmp_path: Path) -> None:
    folder = generator(tmp_path, vocabulary(), folds=2)
    model = Deployed()
    model.load_context(SimpleNamespace(artifacts={"model": str(folder)}))
    served = np.array(model.predict(None, serving_pages(PAGES, FLOW_COLUMNS))["flow"].tolist()).reshape(40, 3, 8)
    assert np.abs(served - Generator(folder).flow(encode_pages(PAGES, vocabulary()))).max() < 1e-5
    assert model.predict(None, serving_pages(PAGES, FLOW_COLUMNS).iloc[:0])["flow"].to_list() == []


def test_an_artifact_carries_a_copy_of_its_generator(tmp_path: Path) -> None:
    own, frozen = artifact(tmp_path / "din"), generator(tmp_path / "nif", older(), folds=2)
    (frozen / "spec.json").write_text("{}")
    copy_into(own, frozen)
    carried = beside(own, vocabulary())
    assert carried is not None and carried.digest == Generator(frozen).digest
    assert not (own / "generator" / "spec.json").exists()
