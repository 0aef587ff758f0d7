from typing import Any

import pytest
import torch

from feature_store.batch import PageBatch
from feature_store.errors import ModelError
from models.amen import Amen
from models.base import Model
from models.catalog import model_class
from models.losses import global_loss, page_terms
from models.tsp import pairs_across_pages, tsp
from tests.models.behaviours import CLOSE, PageModel
from tests.models.synthetic import ROWS, page_batch, select, unit_flows

WITH_FLOW: dict[str, Any] = {"generator": "nif", "future": 3}


def pages_of_users(*args: Any, **kwargs: Any) -> PageBatch:
    """Two pages a user, seconds apart, with a flow."""
    batch = page_batch(*args, **kwargs)
    batch.user = batch.row // 2
    batch.flow = unit_flows(batch.pages, 3, 32)
    return batch


def amen(**settings: Any) -> Amen:
    model = model_class("amen").build(settings, ROWS).eval()
    assert isinstance(model, Amen)
    return model


class TestAmen(PageModel):
    name = "amen"

    def pages(self, *args: Any, **kwargs: Any) -> PageBatch:
        return pages_of_users(*args, **kwargs)


class TestAmenWithAFlow(TestAmen):
    def model(self, **settings: object) -> Model:
        return super().model(**{**WITH_FLOW, **settings})


class TestAmenWithACosineGateAndTheLift(TestAmen):
    def model(self, **settings: object) -> Model:
        return super().model(**{**WITH_FLOW, "sam": "cos_gate", "tsp": "b", **settings})


def test_the_flow_changes_the_scores_and_has_no_gradient() -> None:
    model, batch = amen(**WITH_FLOW), pages_of_users(8)
    before = model(batch).logits.detach()
    batch.flow = batch.flow.flip(0).requires_grad_()
    after = model(batch)
    assert not torch.allclose(before, after.logits)
    global_loss(model.terms(after, batch), 1)[0].backward()
    assert batch.flow.grad is None


def test_a_model_without_a_generator_ignores_the_flow() -> None:
    model, batch = amen(), pages_of_users(8)
    before = model(batch).logits
    batch.flow = None
    assert torch.equal(before, model(batch).logits)
    assert not [name for name, _ in model.named_parameters() if name.startswith(("alignment", "ahead"))]


def test_a_flow_that_is_missing_or_of_another_generator_is_named() -> None:
    batch = pages_of_users(4)
    with pytest.raises(ModelError, match="the pages come with a flow of 3 steps of 32; a generator of 8 steps of 32 is needed"):
        amen(generator="nif")(batch)
    batch.flow = None
    with pytest.raises(ModelError, match="the pages come with no flow; a generator of 3 steps of 32"):
        amen(**WITH_FLOW)(batch)


def test_the_loss_is_clicks_plus_weighted_pairs_plus_weighted_misalignment() -> None:
    model, batch = amen(**WITH_FLOW, tsp_weight=0.3, align=0.7), pages_of_users(30)
    output = model(batch)
    clicks = page_terms(output.logits, batch)
    total, weight = tsp(output.logits, pairs_across_pages(batch))
    clicked = batch.clicked > 0
    assert float(weight) > 0
    expected = clicks.sums[0] / clicks.weights[0] + 0.3 * total / weight + 0.7 * output.misalignment[clicked].mean()
    torch.testing.assert_close(global_loss(model.terms(output, batch), 1)[0], expected)
    torch.testing.assert_close(global_loss(model.validation_terms(output, batch), 1)[0], clicks.sums[0] / clicks.weights[0])


@pytest.mark.parametrize(("settings", "terms"), [({}, 3), ({"tsp": "none"}, 2), ({"tsp_weight": 0}, 2), ({"sam": "none"}, 2),
                                                 ({"align": 0}, 2), ({"tsp": "control"}, 3), ({"generator": ""}, 2)])
def test_what_is_switched_off_has_no_term(settings: dict[str, Any], terms: int) -> None:
    model, batch = amen(**{**WITH_FLOW, **settings}), pages_of_users(8)
    assert len(model.terms(model(batch), batch).sums) == terms


def test_ranks_that_have_whole_users_give_the_loss_of_one() -> None:
    model, batch = amen(**WITH_FLOW), pages_of_users(16)
    ranks = [select(batch, [n for n in range(16) if int(batch.user[n]) % 2 == rank]) for rank in (0, 1)]
    whole, first, second = (model.terms(model(b), b) for b in (batch, *ranks))
    torch.testing.assert_close(first.sums + second.sums, whole.sums, **CLOSE)
    torch.testing.assert_close(first.weights + second.weights, whole.weights, **CLOSE)


def test_scores_without_the_walk_do_not_depend_on_it() -> None:
    model, batch = amen(**WITH_FLOW, tsp="b"), pages_of_users(6, tokens=(3, 9))
    before = model(batch)
    start = 0
    for feature, length in zip(batch.sparse.keys(), batch.sparse.length_per_key(), strict=True):
        if feature.startswith(("moveline_", "visit_")):
            batch.sparse.values()[start: start + length] = 7
        start += length
    batch.visit_dense += 1
    batch.flow = batch.flow.flip(0)
    batch.candidate_dense[:, 2] += 1
    after = model(batch)
    assert torch.equal(before.without, after.without) and not torch.allclose(before.logits, after.logits)
    empty = page_batch(6, tokens=(0, 0), visits=(0, 0))
    empty.flow = torch.zeros(6, 3, 32)
    empty.candidate_dense[:, 2] = 0
    found = model(empty)
    torch.testing.assert_close(found.logits, found.without, **CLOSE)


def test_the_lift_trains_what_the_walk_adds() -> None:
    model, batch = amen(**WITH_FLOW, tsp="b"), pages_of_users(30)
    output = model(batch)
    terms = model.terms(output, batch)
    total, weight = tsp(output.logits - output.without, pairs_across_pages(batch))
    torch.testing.assert_close(terms.sums[1] / terms.weights[1], total / weight)
