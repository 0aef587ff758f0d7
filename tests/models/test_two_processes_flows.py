"""A generator on one and two real processes: the same parts in every global batch, so the same losses."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest

from feature_store.batch import BUCKET_ROWS, VOCABULARY_FIELDS
from feature_store.encoded_set import EncodedFile, EncodedSet, file_digest
from feature_store.encoding import encode_flows
from feature_store.negatives import POOL, Pool
from jobs.train import train
from tests.feature_store.encoded_flows import random_flows
from tests.feature_store.encoded_pages import vocabulary
from tests.models.test_two_processes import recipe


def encoded_flow_set(folder: Path, count: int, seed: int = 0) -> EncodedSet:
    """Write random flows as two lopsided files with their pool and manifest."""
    folder.mkdir(parents=True)
    words, files = vocabulary(), []
    table = encode_flows(random_flows(count, seed), words)
    for name, part in (("part-0.parquet", table.slice(0, count // 4)), ("part-1.parquet", table.slice(count // 4))):
        pq.write_table(part, folder / name, row_group_size=40)
        futures = len(part["future_item"].combine_chunks().flatten())
        files.append(EncodedFile(name, (folder / name).stat().st_size, len(part), futures, file_digest(folder / name)))
    Pool.of([str(folder / f.name) for f in files]).save(folder / POOL)
    sizes = {field: words.rows(field) for field in VOCABULARY_FIELDS} | BUCKET_ROWS
    made = EncodedSet(str(folder), folder.name, "flows", f"random-{seed}", tuple(files), sizes, words.digest, "flows", 0,
                      ("2026-01-02",))
    made.save()
    return made


@pytest.mark.drill
def test_nif_by_torchrun_with_two_processes_equals_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    conf = recipe(nif={"items_a_batch": 64, "epochs": 1, "dim": 8, "heads": 1, "future": 4, "negatives": 30, "form": "sphere",
                       "repeats": True})
    sets = encoded_flow_set(tmp_path / "train", 500), encoded_flow_set(tmp_path / "validate", 60, 1)
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    one = train(conf, "nif", *sets, tmp_path / "one")
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "other"))
    two = train(conf, "nif", *sets, tmp_path / "two", processes=2)
    assert len(one.losses) == len(two.losses) >= 15 and two.losses[-1] < two.losses[0]
    assert two.losses == pytest.approx(one.losses, abs=1e-3)
    for name in ("validate_loss", "validate_recall_50", "validate_pairwise_cosine"):
        assert two.history[0][name] == pytest.approx(one.history[0][name], abs=1e-3), name
