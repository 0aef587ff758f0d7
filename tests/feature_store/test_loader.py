"""The loader: nothing lost, nothing doubled, the same batches for any number of processes."""

import itertools
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from feature_store.batch import BUCKET_ROWS, FEATURES, VOCABULARY_FIELDS, PageBatch, PairBatch
from feature_store.collate import page_batch
from feature_store.encoding import ENCODED_PAIRS, encode_pages
from feature_store.errors import TableError
from feature_store.loader import PageStream, PairStream
from feature_store.row_groups import read_tables
from tests.feature_store.encoded_pages import random_pages, vocabulary

WORDS = vocabulary()
ROWS = {field: WORDS.rows(field) for field in VOCABULARY_FIELDS} | BUCKET_ROWS


def write(folder: Path, groups: Sequence[Sequence[int]], seed: int = 0) -> tuple[list[str], pa.Table]:
    """Encoded pages as files of row groups of the given sizes."""
    encoded = encode_pages(random_pages(sum(map(sum, groups)), seed), WORDS)
    files, start = [], 0
    for number, sizes in enumerate(groups):
        files.append(str(folder / f"part-{number}.parquet"))
        with pq.ParquetWriter(files[-1], encoded.schema) as writer:
            for size in sizes:
                writer.write_table(encoded.slice(start, size))
                start += size
    return files, encoded


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], pa.Table]:
    return write(tmp_path_factory.mktemp("pages"), [[20, 13], [1], [17, 20, 9, 20]])


def stream(files: list[str], **kw: object) -> PageStream:
    return PageStream(files, **{"items_a_batch": 30, "rows": ROWS, "seed": 7, **kw})  # type: ignore[arg-type]


def content(batch: PageBatch) -> list[dict]:
    """The pages of a batch as plain values, paddings left out, to compare with the encoded table."""
    keep = [n for n, row in enumerate(batch.row.tolist()) if row >= 0]
    jagged = {key: [t.tolist() for t in batch.sparse[key].to_dense()] for key in FEATURES}
    ends = [0, *itertools.accumulate(batch.lengths.tolist())]
    dense, visits = batch.candidate_dense.tolist(), [0, *itertools.accumulate(batch.sparse["visit_scene"].lengths().tolist())]
    return [{
        "row": batch.row[n].item(), "user": batch.user[n].item(), "cut_time": batch.shown_time[n].item(),
        "clicked": batch.clicked[ends[n]:ends[n + 1]].tolist(), "weight": batch.weight[ends[n]:ends[n + 1]].tolist(),
        "price_score": [d[0] for d in dense[ends[n]:ends[n + 1]]], "seen_before": [d[2] for d in dense[ends[n]:ends[n + 1]]],
        "log_carted": [d[3] for d in batch.visit_dense[visits[n]:visits[n + 1]].tolist()],
        "log_dwell": [d[0] for d in batch.visit_dense[visits[n]:visits[n + 1]].tolist()],
    } | {key: jagged[key][n] for key in FEATURES} for n in keep]


def expected(encoded: pa.Table, rows: list[int], names: list[str]) -> list[dict]:
    plain = encoded.to_pylist()
    return [{k: [plain[r][k]] if k in FEATURES and not isinstance(plain[r][k], list) else plain[r][k] for k in names} for r in rows]


@pytest.mark.parametrize("shuffle", [True, False])
def test_an_epoch_delivers_every_page_once_and_whole(pages: tuple[list[str], pa.Table], shuffle: bool) -> None:
    files, encoded = pages
    batches = list(stream(files, shuffle=shuffle).epoch(0))
    found = [page for batch in batches for page in content(batch)]
    assert sorted(p["row"] for p in found) == list(range(len(encoded)))
    assert found == expected(encoded, [p["row"] for p in found], list(found[0]))
    assert all(set(b.weight[b.page_of_item == n].tolist()) == {0.0} for b in batches for n in torch.where(b.row < 0)[0])


def test_without_shuffling_one_shard_keeps_the_order_of_the_files(pages: tuple[list[str], pa.Table]) -> None:
    files, encoded = pages
    rows = torch.cat([b.row for b in stream(files, shuffle=False, shards=1).epoch(3)])
    assert rows.tolist() == list(range(len(encoded)))


def rows_of(batches: Sequence[PageBatch]) -> list[list[int]]:
    return [b.row.tolist() for b in batches]


def test_batches_are_the_same_on_every_pass_and_differ_between_epochs_and_seeds(pages: tuple[list[str], pa.Table]) -> None:
    files, _ = pages
    first = rows_of(list(stream(files).epoch(0)))
    assert all(rows_of(list(stream(files).epoch(0))) == first for _ in range(3))
    assert rows_of(list(stream(files).epoch(1))) != first != rows_of(list(stream(files, seed=8).epoch(0)))


def test_resuming_at_a_step_gives_the_identical_rest(pages: tuple[list[str], pa.Table]) -> None:
    files, _ = pages
    whole = list(stream(files).epoch(2))
    rest = list(stream(files).epoch(2, start=3))
    assert rows_of(rest) == rows_of(whole[3:])
    assert all(torch.equal(a.sparse.values(), b.sparse.values()) for a, b in zip(rest, whole[3:], strict=True))


def test_steps_are_known_before_reading_and_micro_batches_stay_near_the_budget(pages: tuple[list[str], pa.Table]) -> None:
    files, _ = pages
    for budget in (1, 7, 30, 10_000):
        one = stream(files, items_a_batch=budget, shards=2)
        batches = list(one.epoch(0))
        assert len(batches) == one.steps(0)
        assert max(b.items for b in batches) <= 2 * (budget + 5)


@pytest.mark.parametrize("shards", [2, 4, 9])
def test_two_ranks_see_the_global_batches_of_one(pages: tuple[list[str], pa.Table], shards: int) -> None:
    files, _ = pages
    alone = list(stream(files, shards=shards).epoch(1))
    pair = [list(stream(files, shards=shards, rank=r, world=2).epoch(1)) for r in (0, 1)]
    assert len(pair[0]) == len(pair[1]) == len(alone)
    for whole, left, right in zip(alone, *pair, strict=True):
        assert sorted(whole.row.tolist()) == sorted(left.row.tolist() + right.row.tolist())


_RANK = """
import json, sys
from feature_store.loader import PageStream
files, rows, rank = json.loads(sys.argv[1])
stream = PageStream(files, items_a_batch=20, rank=rank, world=2, shards=2, rows=rows)
batches = list(stream.epoch(0))
print(json.dumps([stream.steps(0), len(batches), sum(int((b.row >= 0).sum()) for b in batches)]))
"""


@pytest.mark.drill
def test_two_processes_take_equal_steps_on_lopsided_files(tmp_path: Path) -> None:
    files, encoded = write(tmp_path, [[5], [20] * 9])
    running = [subprocess.Popen([sys.executable, "-c", _RANK, json.dumps([files, ROWS, rank])], stdout=subprocess.PIPE, text=True)
               for rank in (0, 1)]
    (steps, first, left), (also, second, right) = (json.loads(p.communicate(timeout=400)[0].splitlines()[-1]) for p in running)
    assert steps == also == first == second
    assert left + right == len(encoded)


def test_a_rank_without_any_row_group_takes_the_same_steps(tmp_path: Path) -> None:
    files, _ = write(tmp_path, [[20]])
    full, dry = (list(stream(files, rank=r, world=2, shards=2).epoch(0)) for r in (0, 1))
    assert len(full) == len(dry) > 1
    assert all(b.row.tolist() == [-1] and b.weight.tolist() == [0.0] and b.items == 1 for b in dry)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_no_row_is_lost_or_doubled_in_fifty_passes_with_one_two_and_four_reading_threads(tmp_path: Path, workers: int) -> None:
    files, encoded = write(tmp_path, [[3, 2, 4], [1] * 2, [5, 5, 5, 1]])
    for epoch in range(50):
        rows = pa.concat_tables(read_tables(files, ["row"], seed=epoch, workers=workers))["row"].to_pylist()
        assert sorted(rows) == list(range(len(encoded)))


@pytest.mark.parametrize("shards", [1, 2, 4])
def test_no_row_is_lost_or_doubled_in_fifty_passes_over_one_two_and_four_shards(tmp_path: Path, shards: int) -> None:
    files, encoded = write(tmp_path, [[3, 2, 4], [1] * 2, [5, 5, 5, 1]])
    read = stream(files, shards=shards)
    for epoch in range(50):
        rows = torch.cat([batch.row for batch in read.epoch(epoch)])
        assert rows[rows >= 0].sort().values.tolist() == list(range(len(encoded)))


def test_lost_rows_are_noticed(pages: tuple[list[str], pa.Table], monkeypatch: pytest.MonkeyPatch) -> None:
    files, _ = pages
    from feature_store import loader, row_groups

    real = row_groups.read_tables
    monkeypatch.setattr(loader, "read_tables", lambda *a, **k: itertools.islice(real(*a, **k), 1, None))
    with pytest.raises(TableError, match="rows arrived, the Parquet footers promise"):
        list(stream(files).epoch(0))


def test_an_index_outside_its_table_is_refused(pages: tuple[list[str], pa.Table]) -> None:
    files, encoded = pages
    with pytest.raises(TableError, match=r"feature \w+: index \d+ is outside its table of 10 rows"):
        list(stream(files, rows=ROWS | {"item": 10}).epoch(0))
    broken = encoded.set_column(encoded.column_names.index("hour"), "hour", pa.array(np.full(len(encoded), -1)))
    with pytest.raises(TableError, match="feature hour: index -1"):
        page_batch(broken, ROWS)


def test_a_pickled_schema_is_refused(tmp_path: Path) -> None:
    files, _ = write(tmp_path, [[4]])
    marked = pa.schema([("x", pa.int64())], {b"dataset-toolkit.unischema.v1": b"cos\nsystem\n"})
    pq.write_metadata(marked, tmp_path / "_common_metadata")
    with pytest.raises(TableError, match="carries a pickled petastorm schema"):
        stream(files)


@pytest.mark.parametrize("name", ["absent.parquet", "broken.parquet"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(TableError, match=f"{name}: not a readable Parquet file"):
        stream([str(tmp_path / name)])


def test_leaving_an_epoch_early_stops_its_threads(pages: tuple[list[str], pa.Table]) -> None:
    import threading

    before = threading.active_count()
    epoch = stream(pages[0], items_a_batch=1).epoch(0)
    next(epoch)
    epoch.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_fewer_shards_than_processes_is_refused(pages: tuple[list[str], pa.Table]) -> None:
    with pytest.raises(TableError, match="at least one shard a process"):
        stream(pages[0], rank=0, world=5, shards=4)


def test_pairs_arrive_once_each_in_equal_steps(tmp_path: Path) -> None:
    table = pa.table({"left": range(100), "right": range(100, 200), "left_category": [1] * 100, "right_category": [2] * 100,
                      "kind": [n % 3 for n in range(100)], "weight": [1.5] * 100, "page": range(100)}).cast(ENCODED_PAIRS)
    pq.write_table(table, tmp_path / "pairs.parquet", row_group_size=30)
    files = [str(tmp_path / "pairs.parquet")]
    ranks = [PairStream(files, pairs_a_batch=8, rank=r, world=2, shards=2, rows={"item": 200, "category": 3}) for r in (0, 1)]
    batches: list[list[PairBatch]] = [list(r.epoch(0)) for r in ranks]
    assert len(batches[0]) == len(batches[1]) == ranks[0].steps(0)
    real = [(left, right, kind, page) for b in [*batches[0], *batches[1]]
            for left, right, kind, page, weight in zip(b.sparse["left"].values().tolist(), b.sparse["right"].values().tolist(),
                                                       b.kind.tolist(), b.page.tolist(), b.weight.tolist(), strict=True) if weight]
    assert sorted(real) == [(n, n + 100, n % 3, n) for n in range(100)]
