import numpy as np
import pytest
import torch

from feature_store.errors import ModelError
from models.catalog import model_class
from models.cooccurrence import begin, item_vectors
from models.flow_metrics import best_cosine
from models.nif import Nif
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
    begin(model, vectors)
    assert torch.equal(model.tables.collection.embeddings["item"].weight[7], own)
    batch = flow_batch(64, tokens=(1, 6))
    line, item = batch.sparse["moveline_item"], torch.arange(1, 60)
    last = line.values()[line.offsets()[1:] - 1]
    first = item[best_cosine(model(batch).flow, model.items(item, 1 + item % 11)).argmax(1)]
    assert float((first == last)[last != 7].float().mean()) > 0.95


def test_a_table_smaller_than_the_vectors_is_refused() -> None:
    with pytest.raises(ModelError, match="item vectors of 8 columns need a table of more rows than 8"):
        item_vectors(np.array([1, 2]), np.array([2]), 8, 8)
