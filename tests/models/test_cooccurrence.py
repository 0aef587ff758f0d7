from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from feature_store.encoding import encode_flows
from models.catalog import model_class
from models.cooccurrence import begin, item_vectors, repeat_odds, walks_of
from models.flow_metrics import best_cosine
from models.nif import Nif
from tests.feature_store.encoded_flows import random_flows
from tests.feature_store.encoded_pages import vocabulary
from tests.models.synthetic import ROWS, flow_batch


def walks(count: int = 400, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Walks of three items of one of ten groups: items 1 to 40, of the group that their last digit names."""
    draw = np.random.default_rng(seed)
    return (10 * draw.integers(0, 4, (count, 3)) + draw.integers(1, 11, (count, 1))).ravel(), np.full(count, 3)


def test_items_that_lie_near_each_other_in_walks_have_vectors_alike() -> None:
    item, lengths = walks()
    found = item_vectors(item, lengths, 60, 10)
    torch.testing.assert_close(found[1:41].norm(dim=1), torch.full((40,), 10**0.5))
    cosine = found[1:41] @ found[1:41].T / 10
    together = torch.arange(40)[:, None] % 10 == torch.arange(40) % 10
    assert float(cosine[together].min()) > 0.9 and float(cosine[~together].abs().max()) < 0.3


def test_what_occurs_beside_no_item_has_no_vector() -> None:
    found = item_vectors(np.array([1, 2, 0, 3, 5, 5, 1, 2]), np.array([2, 2, 2, 2]), 20, 2)
    assert float(found[[0, 3, 4, 5, *range(6, 20)]].abs().max()) == 0 and float(found[1:3].norm(dim=1).min()) > 1


def test_a_flow_begins_as_the_item_of_the_last_token() -> None:
    model = model_class("nif").build({"future": 2}, ROWS).eval()
    assert isinstance(model, Nif)
    vectors = torch.randn(60, model.config.dim)
    vectors[7] = 0
    own = model.tables.collection.embeddings["item"].weight[7].clone()
    begin(model, vectors, -3.0)
    assert torch.equal(model.tables.collection.embeddings["item"].weight[7], own)
    batch = flow_batch(64, tokens=(1, 6))
    line, item = batch.sparse["moveline_item"], torch.arange(1, 60)
    last = line.values()[line.offsets()[1:] - 1]
    first = item[best_cosine(model(batch).flow, model.items(item, 1 + item % 11)).argmax(1)]
    assert float((first == last)[last != 7].float().mean()) > 0.95


def test_many_items_and_few_have_vectors_of_the_same_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    item, lengths = walks()
    few = item_vectors(item, lengths, 60, 8)
    monkeypatch.setattr("models.cooccurrence._FEW", 0)
    many = item_vectors(item, lengths, 60, 8)
    torch.testing.assert_close(few @ few.T, many @ many.T, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("item", [[], [0, 0, 0], [4, 4, 4]])
def test_walks_that_hold_no_two_items_give_no_vectors(item: list[int]) -> None:
    lengths = np.array([len(item)] if item else [], np.int64)
    assert float(item_vectors(np.array(item, np.int64), lengths, 20, 8).abs().max()) == 0


def test_a_walk_of_encoded_flows_is_what_came_before_a_cut_and_what_came_after_it(tmp_path: Path) -> None:
    table = encode_flows(random_flows(60, 3), vocabulary())
    files = [str(tmp_path / name) for name in ("a", "b")]
    for file, part in zip(files, (table.slice(0, 20), table.slice(20)), strict=True):
        pq.write_table(part, file)
    whole = [[*row["moveline_item"], *row["future_item"]] for row in table.to_pylist()]
    item, lengths = walks_of(files)
    assert lengths.tolist() == [len(own) for own in whole] and item.tolist() == [i for own in whole for i in own]


@pytest.mark.parametrize(("walks", "again", "new"), [
    ([[1, 2, 3]], 0, 2), ([[1, 2, 1], [1, 3]], 1, 2), ([[4, 4, 4]], 0, 0), ([[1, 0, 1], []], 1, 0), ([[]], 0, 0)])
def test_odds_of_a_repeat_are_counted_over_the_tokens_that_change_the_item(walks: list[list[int]], again: int, new: int) -> None:
    item = np.array([i for own in walks for i in own], np.int64)
    expected = np.log(again + 0.5) - np.log(new + 0.5)
    assert repeat_odds(item, np.array([len(own) for own in walks])) == pytest.approx(expected)


def test_a_model_that_learns_repeats_begins_with_their_odds_in_units_of_a_cosine() -> None:
    model = model_class("nif").build({"repeats": True, "temperature": 0.1}, ROWS)
    assert isinstance(model, Nif) and model.repeat is not None and float(model.repeat) == 0
    begin(model, torch.zeros(60, model.config.dim), -3.0)
    assert float(model.repeat) == pytest.approx(-0.3)
