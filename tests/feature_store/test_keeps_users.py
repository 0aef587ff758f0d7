"""Batches of whole users, and pages that carry what a generator expects of their user."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from feature_store.batch import BUCKET_ROWS, VOCABULARY_FIELDS, PageBatch
from feature_store.encoding import encode_pages
from feature_store.errors import TableError
from feature_store.loader import PageStream
from tests.feature_store.encoded_pages import random_pages, vocabulary

WORDS = vocabulary()
ROWS = {field: WORDS.rows(field) for field in VOCABULARY_FIELDS} | BUCKET_ROWS


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[str], pa.Table]:
    """Files whose row groups end where a user does, as the encoder writes them."""
    folder, encoded = tmp_path_factory.mktemp("pages"), encode_pages(random_pages(200, users=40), WORDS)
    user = encoded["user"].to_numpy()
    starts = np.flatnonzero(np.diff(user, prepend=-1))[::5].tolist()
    files = []
    for number, groups in enumerate((starts[:3], starts[3:])):
        files.append(str(folder / f"{number}.parquet"))
        with pq.ParquetWriter(files[-1], encoded.schema) as writer:
            for begin in groups:
                end = next((s for s in starts if s > begin), len(encoded))
                writer.write_table(encoded.slice(begin, end - begin))
    return files, encoded


def stream(files: list[str], **kw: object) -> PageStream:
    return PageStream(files, **{"items_a_batch": 25, "rows": ROWS, "seed": 7, "keep_users": True, **kw})  # type: ignore[arg-type]


def rows_of(batches: list[PageBatch]) -> list[int]:
    return sorted(r for b in batches for r in b.row.tolist() if r >= 0)


@pytest.mark.parametrize("budget", [1, 25, 10_000])
@pytest.mark.parametrize("shuffle", [True, False])
def test_the_pages_of_a_user_are_one_after_the_other_in_one_batch(pages: tuple[list[str], pa.Table], budget: int,
                                                                  shuffle: bool) -> None:
    files, encoded = pages
    one = stream(files, items_a_batch=budget, shuffle=shuffle)
    batches = list(one.epoch(0))
    assert len(batches) == one.steps(0) and rows_of(batches) == list(range(len(encoded)))
    owners = [[u for u in b.user.tolist() if u >= 0] for b in batches]
    assert sum(len(set(own)) for own in owners) == len(set(encoded["user"].to_pylist()))
    for batch, own in zip(batches, owners, strict=True):
        changes = 1 + int(np.count_nonzero(np.diff(own))) if own else 0
        assert changes == len(set(own))
        assert all(np.diff(batch.shown_time[batch.user == u].numpy()).min(initial=0) >= 0 for u in set(own))


def test_whole_users_come_in_another_order_each_epoch_and_in_equal_steps_on_two_ranks(pages: tuple[list[str], pa.Table]) -> None:
    files, encoded = pages
    first, second = ([b.row.tolist() for b in stream(files).epoch(n)] for n in (0, 1))
    assert first != second
    alone = list(stream(files).epoch(1))
    pair = [list(stream(files, rank=r, world=2).epoch(1)) for r in (0, 1)]
    assert len(alone) == len(pair[0]) == len(pair[1]) and rows_of([*pair[0], *pair[1]]) == list(range(len(encoded)))
    for whole, left, right in zip(alone, *pair, strict=True):
        assert sorted(whole.row.tolist()) == sorted(left.row.tolist() + right.row.tolist())


def test_every_page_carries_the_flow_of_its_own_row(pages: tuple[list[str], pa.Table], tmp_path: Path) -> None:
    files, encoded = pages
    flow = np.random.default_rng(0).normal(size=(len(encoded), 3, 4)).astype(np.float32)
    np.save(tmp_path / "flow.npy", flow)
    for batch in stream(files, flow=tmp_path / "flow.npy").epoch(0):
        assert batch.flow is not None and batch.flow.shape == (batch.pages, 3, 4)
        for row, own in zip(batch.row.tolist(), batch.flow.numpy(), strict=True):
            assert np.array_equal(own, flow[row] if row >= 0 else np.zeros((3, 4)))
    np.save(tmp_path / "short.npy", flow[1:])
    with pytest.raises(TableError, match="holds the flow of 199 pages and the set has 200"):
        stream(files, flow=tmp_path / "short.npy")
