"""Batches of flows: every cut once, futures beside their shares, the same negatives on every rank."""

from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from feature_store.batch import BUCKET_ROWS, FLOW_FEATURES, VOCABULARY_FIELDS, FlowBatch
from feature_store.encoding import encode_flows
from feature_store.errors import TableError
from feature_store.folds import fold_of
from feature_store.loader import FlowStream
from feature_store.negatives import Pool
from tests.feature_store.encoded_flows import random_flows
from tests.feature_store.encoded_pages import vocabulary

WORDS = vocabulary()
ROWS = {field: WORDS.rows(field) for field in VOCABULARY_FIELDS} | BUCKET_ROWS
HISTORY = [f for f in FLOW_FEATURES if not f.startswith("negative")]


@pytest.fixture(scope="module")
def flows(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], str, list[dict]]:
    folder, encoded = tmp_path_factory.mktemp("flows"), encode_flows(random_flows(90), WORDS)
    pq.write_table(encoded.slice(0, 50), folder / "a.parquet", row_group_size=13)
    pq.write_table(encoded.slice(50), folder / "b.parquet", row_group_size=17)
    files = [str(folder / "a.parquet"), str(folder / "b.parquet")]
    Pool.of(files).save(folder / "pool.parquet")
    return files, str(folder / "pool.parquet"), encoded.to_pylist()


def stream(flows: tuple[list[str], str, list[dict]], **kw: object) -> FlowStream:
    return FlowStream(flows[0], **{"futures_a_batch": 20, "pool": flows[1], "negatives": 7, "rows": ROWS, "seed": 3, **kw})  # type: ignore[arg-type]


def test_every_cut_arrives_once_with_all_that_belongs_to_it(flows: tuple[list[str], str, list[dict]]) -> None:
    one = stream(flows)
    batches = list(one.epoch(0))
    assert len(batches) == one.steps(0) > 2
    found: dict[int, dict] = {}
    for batch in batches:
        lists = {f: [t.tolist() for t in batch.sparse[f].to_dense()] for f in HISTORY}
        found |= {row: {f: lists[f][n] for f in HISTORY} | {"cut_time": batch.cut_time[n].item()}
                  for n, row in enumerate(batch.row.tolist()) if row >= 0}
        assert batch.weight.tolist() == [float(r >= 0) for r in batch.row.tolist()]
    plain = flows[2]
    assert found == {n: {f: plain[n][f] for f in (*HISTORY, "cut_time")} for n in range(len(plain))}


def test_a_future_says_its_share_among_the_training_futures(flows: tuple[list[str], str, list[dict]]) -> None:
    counts = Counter(i for row in flows[2] for i in row["future_item"])
    for batch in stream(flows).epoch(0):
        items = batch.sparse["future_item"].values().tolist()
        real = np.repeat(batch.weight.numpy() > 0, batch.sparse["future_item"].lengths().numpy())
        wanted = [np.log(counts[i] / counts.total()) for i, r in zip(items, real, strict=True) if r]
        assert batch.future_logq.numpy()[real] == pytest.approx(wanted, abs=1e-5) and len(items) == batch.futures


def negatives(batch: FlowBatch) -> list[int]:
    return batch.sparse["negative_item"].values().tolist()


def test_two_ranks_see_the_cuts_and_the_negatives_of_one(flows: tuple[list[str], str, list[dict]]) -> None:
    alone = list(stream(flows).epoch(1))
    pair = [list(stream(flows, rank=r, world=2).epoch(1)) for r in (0, 1)]
    assert len(alone) == len(pair[0]) == len(pair[1])
    for whole, left, right in zip(alone, *pair, strict=True):
        both = sorted(zip(left.row.tolist() + right.row.tolist(), left.part.tolist() + right.part.tolist(), strict=True))
        assert sorted(zip(whole.row.tolist(), whole.part.tolist(), strict=True)) == both
        assert negatives(whole) == negatives(left) == negatives(right)
        assert whole.sparse["negative_item"].lengths().tolist() == [7] + [0] * (whole.cuts - 1)
        assert torch.equal(whole.negative_logq, right.negative_logq)


def test_negatives_depend_on_seed_epoch_and_step_alone_and_come_as_often_as_promised() -> None:
    pool = Pool(pa.table({"item": [3, 5, 9], "category": [1, 2, 3], "count": [1, 16, 256]}))
    item, category, logq = pool.draw(40_000, 1, 2, 3)
    assert np.array_equal(item, pool.draw(40_000, 1, 2, 3)[0])
    assert all(not np.array_equal(item, pool.draw(40_000, *k)[0]) for k in ((0, 2, 3), (1, 0, 3), (1, 2, 0)))
    for n, i in enumerate((3, 5, 9)):
        share = float(np.mean(item == i))
        assert share == pytest.approx(8.0**n / 73, abs=0.01) and set(category[item == i]) == {n + 1}
        assert set(np.exp(logq[item == i]).round(5)) == {np.float32(8.0**n / 73).round(5)}
    assert pool.log_share(np.array([9, 4, 1_000])) == pytest.approx(np.log([256 / 273, 1 / 273, 1 / 273]))


def test_folds_are_those_of_spark_and_part_the_users() -> None:
    users = pa.array([f"u{n:05d}" for n in range(2_000)] + ["u00001"])
    fold = fold_of(users, 2)
    assert fold[1] == fold[-1] and abs(fold.mean() - 0.5) < 0.05


def test_a_rank_that_ran_dry_and_an_empty_pool_are_handled(tmp_path: Path) -> None:
    pq.write_table(encode_flows(random_flows(20), WORDS), tmp_path / "a.parquet")
    files = [str(tmp_path / "a.parquet")]
    Pool.of(files).save(tmp_path / "pool.parquet")
    dry = list(FlowStream(files, futures_a_batch=10, pool=tmp_path / "pool.parquet", rank=1, world=2, shards=2, rows=ROWS).epoch(0))
    assert dry and all(b.weight.tolist() == [0.0] and b.row.tolist() == [-1] and b.futures == 1 for b in dry)
    Pool.of([]).save(tmp_path / "none.parquet")
    with pytest.raises(TableError, match="no future item occurs in the training rows"):
        FlowStream(files, futures_a_batch=10, pool=tmp_path / "none.parquet", rows=ROWS)
