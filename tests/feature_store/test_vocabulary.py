"""The vocabulary: raw ids to rows of embedding tables."""

import pickle
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from feature_store.errors import TableError
from feature_store.vocabulary import Vocabulary, hash_ids

DAY = datetime(2026, 1, 1, tzinfo=UTC)


def vocabulary(ids: list[str], field: str = "item", buckets: int = 3) -> Vocabulary:
    return Vocabulary(
        pa.table(
            {
                "field": pa.array([field] * len(ids), pa.string()),
                "id": pa.array(ids, pa.string()),
                "index": pa.array(range(buckets + 1, buckets + 1 + len(ids)), pa.int64()),
                "first_time": pa.array([DAY + timedelta(days=n) for n in range(len(ids))], pa.timestamp("us", "UTC")),
            }
        ),
        buckets,
    )


@given(
    st.lists(st.text(max_size=3), unique=True, max_size=20),
    st.lists(st.one_of(st.none(), st.text(max_size=3)), max_size=40),
    st.booleans(),
)
def test_encoding_equals_a_dictionary_lookup(ids: list[str], asked: list[str | None], as_dictionary: bool) -> None:
    words = vocabulary(ids)
    values = pa.array(asked, pa.string())
    found = words.encode("item", values.dictionary_encode() if as_dictionary else values).tolist()
    for value, index in zip(asked, found, strict=True):
        if value is None:
            assert index == 0
        elif value in ids:
            assert index == 4 + ids.index(value)
        else:
            assert index == 1 + int(hash_ids(np.array([value], object))[0]) % 3


def test_the_hash_is_the_same_in_every_process() -> None:
    assert hash_ids(np.array(["a", "b"], object)).tolist() == [13950350942979735504, 12688059582079114975]


def test_sliced_and_chunked_arrays_are_read_where_they_start() -> None:
    words = vocabulary(["a", "b", "c"])
    assert words.encode("item", pa.array(["a", "b", None, "c"])[1:]).tolist() == [5, 0, 6]
    assert words.encode("item", pa.chunked_array([["a"], ["c"]])).tolist() == [4, 6]


def test_an_empty_field_has_rows_for_padding_and_buckets_only() -> None:
    words = vocabulary([])
    assert words.rows("scene") == 4
    assert words.encode("scene", pa.array([None], pa.string())).tolist() == [0]
    assert words.encode("scene", pa.array([], pa.string())).tolist() == []


def test_as_of_forgets_ids_that_were_not_available_before_the_time() -> None:
    words = vocabulary(["a", "b"])
    past = words.as_of(DAY + timedelta(days=1))
    assert past.encode("item", pa.array(["a"]))[0] == 4
    assert 1 <= past.encode("item", pa.array(["b"]))[0] <= 3
    assert (past.rows("item"), words.rows("item")) == (5, 6)


def test_saving_and_loading_keeps_content_and_digest(tmp_path: Path) -> None:
    words = vocabulary(["a", "b"])
    words.save(tmp_path / "vocabulary.parquet")
    again = Vocabulary.load(tmp_path / "vocabulary.parquet")
    assert (again.digest, again.buckets) == (words.digest, 3)
    assert pickle.loads(pickle.dumps(words)).digest == words.digest  # noqa: S301
    assert words.as_of(DAY + timedelta(days=1)).digest != words.digest


def test_a_file_that_is_no_vocabulary_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"no")
    with pytest.raises(TableError, match=r"x\.parquet: not a saved vocabulary"):
        Vocabulary.load(tmp_path / "x.parquet")


def test_an_index_inside_the_buckets_is_refused() -> None:
    with pytest.raises(TableError, match="lies inside the 9 out-of-vocabulary buckets"):
        Vocabulary(vocabulary(["a"]).entries(), buckets=9)


def test_an_unknown_field_is_named() -> None:
    with pytest.raises(TableError, match="no field 'brand'"):
        vocabulary([]).rows("brand")
