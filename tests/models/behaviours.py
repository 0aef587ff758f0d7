"""Behaviours that every model of the catalog shows. A model's test class inherits one of the mixins and adds its own."""

from typing import Any

import pytest
import torch
from torch import Tensor

from feature_store.batch import CANDIDATE_DENSE, FEATURES, FlowBatch, PageBatch, PairBatch
from feature_store.errors import ModelError
from models.base import Batch, Model
from models.catalog import CATALOG, model_class
from models.losses import global_loss
from tests.models.synthetic import ROWS, flow_batch, page_batch, pair_batch, select, select_cuts

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
READS = {"pages": PageBatch, "pairs": PairBatch, "flows": FlowBatch}


class AnyModel:
    """What holds for models of pages, of pairs and of flows alike."""

    name: str

    def model(self, **settings: object) -> Model:
        return model_class(self.name).build(settings, ROWS).eval()

    def batch(self, seed: int = 0) -> Batch:
        raise NotImplementedError

    def values(self, model: Model, batch: Batch) -> Tensor:
        """What the model is asked for: its logits, or its flows."""
        return model.logits(model(batch))

    def count(self, batch: Batch) -> int:
        return batch.items if isinstance(batch, PageBatch) else batch.pairs if isinstance(batch, PairBatch) else batch.cuts

    def loss(self, model: Model, batch: Batch) -> Tensor:
        return global_loss(model.terms(model(batch), batch), 1)[0]

    def test_it_is_in_the_catalog(self) -> None:
        assert self.name in CATALOG
        assert isinstance(self.batch(), READS[CATALOG[self.name].reads])

    def test_it_gives_one_finite_value_each(self) -> None:
        batch = self.batch()
        found = self.values(self.model(), batch)
        assert len(found) == self.count(batch) and torch.isfinite(found).all()

    def test_the_same_seed_builds_the_same_model(self) -> None:
        torch.manual_seed(1)
        first = self.values(self.model(), self.batch())
        torch.manual_seed(2)
        assert torch.equal(first, self.values(self.model(), self.batch()))

    def test_another_seed_builds_another_model(self) -> None:
        assert not torch.equal(self.values(self.model(), self.batch()), self.values(self.model(seed=8), self.batch()))

    def test_a_state_dict_makes_another_model_equal(self) -> None:
        first, second = self.model(), self.model(seed=8)
        second.load_state_dict(first.state_dict())
        assert torch.equal(self.values(first, self.batch()), self.values(second, self.batch()))

    def test_an_index_beyond_its_table_raises(self) -> None:
        batch = self.batch()
        batch.sparse.values()[0] = ROWS["item"]
        with pytest.raises(ModelError, match=r"index 768 is outside its table of 768 rows"):
            self.model()(batch)

    def test_a_negative_index_raises(self) -> None:
        batch = self.batch()
        batch.sparse.values()[0] = -1
        with pytest.raises(ModelError, match=r"index -1 is outside"):
            self.model()(batch)

    def test_an_unknown_setting_is_named(self) -> None:
        with pytest.raises(ModelError, match=rf"model {self.name}: setting depth: Extra inputs"):
            self.model(depth=3)

    def test_every_parameter_gets_a_gradient(self) -> None:
        model = self.model().train()
        self.loss(model, self.batch()).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def test_it_learns_a_small_batch(self) -> None:
        model, batch = self.model(**self.learning()).train(), self.batch()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        first = float(self.loss(model, batch).detach())
        for step in range(150):
            model.set_step(step)
            optimizer.zero_grad()
            loss = self.loss(model, batch)
            loss.backward()
            optimizer.step()
            if float(loss.detach()) < 0.2 * first:
                break
        assert float(self.loss(model.eval(), batch).detach()) < 0.25 * first

    def learning(self) -> dict[str, object]:
        return {}

    def test_what_has_no_weight_does_not_change_the_loss(self) -> None:
        model, batch = self.model(), self.batch()
        batch.weight[::2] = 0
        before = self.loss(model, batch)
        if isinstance(batch, PageBatch):
            batch.clicked[::2] = 1 - batch.clicked[::2]
        elif isinstance(batch, PairBatch):
            batch.kind[::2] = 2 - batch.kind[::2]
        assert torch.equal(before, self.loss(model, batch))


class PageModel(AnyModel):
    """What holds for every model of pages."""

    def pages(self, *args: Any, **kwargs: Any) -> PageBatch:
        """Random pages with all that the model needs; arguments of `page_batch`."""
        return page_batch(*args, **kwargs)

    def batch(self, seed: int = 0) -> PageBatch:
        return self.pages(8, seed)

    def learning(self) -> dict[str, object]:
        return {"dropout": 0.0}

    def test_pages_in_another_order_get_the_same_scores(self) -> None:
        batch, model = self.batch(), self.model()
        order = [5, 2, 7, 0, 1, 3, 6, 4]
        parts = self.values(model, batch).split(batch.lengths.tolist())
        torch.testing.assert_close(self.values(model, select(batch, order)), torch.cat([parts[p] for p in order]), **CLOSE)

    def test_a_page_does_not_depend_on_the_others(self) -> None:
        batch, model = self.batch(), self.model()
        parts = self.values(model, batch).split(batch.lengths.tolist())
        for page, expected in enumerate(parts):
            torch.testing.assert_close(self.values(model, select(batch, [page])), expected, **CLOSE)

    def test_items_of_a_page_in_another_order_get_the_same_scores(self) -> None:
        batch, model = self.pages(1, items=(6, 6)), self.model()
        order = torch.tensor([3, 1, 5, 0, 4, 2])
        expected = self.values(model, batch)[order]
        start = 0
        for feature, length in zip(FEATURES, batch.sparse.length_per_key(), strict=True):
            if feature.startswith("candidate_"):
                batch.sparse.values()[start: start + length] = batch.sparse.values()[start: start + length][order]
            start += length
        batch.candidate_dense = batch.candidate_dense[order]
        torch.testing.assert_close(self.values(model, batch), expected, **CLOSE)

    def test_an_empty_history_is_fine(self) -> None:
        batch = self.pages(4, tokens=(0, 0), visits=(0, 0))
        logits = self.values(self.model(), batch)
        assert logits.shape == (batch.items,) and torch.isfinite(logits).all()

    def test_a_page_of_one_item_is_fine(self) -> None:
        assert torch.isfinite(self.values(self.model(), self.pages(1, items=(1, 1)))).all()

    def test_ids_that_are_unknown_are_fine(self) -> None:
        batch = self.batch()
        batch.sparse.values().zero_()
        assert torch.isfinite(self.values(self.model(), batch)).all()

    def test_dropout_depends_on_the_step_and_the_page_alone(self) -> None:
        model, batch = self.model(dropout=0.5).train(), self.batch()
        model.set_step(3)
        whole = self.values(model, batch).split(batch.lengths.tolist())
        torch.testing.assert_close(self.values(model, select(batch, [4])), whole[4], **CLOSE)
        model.set_step(4)
        assert not torch.allclose(self.values(model, batch), torch.cat(whole))

    def test_dense_columns_have_the_contracts_width(self) -> None:
        assert self.batch().candidate_dense.shape[1] == len(CANDIDATE_DENSE)


class PairModel(AnyModel):
    """What holds for every model of pairs."""

    def batch(self, seed: int = 0) -> PairBatch:
        return pair_batch(64, seed)

    def test_a_pair_has_no_direction(self) -> None:
        batch, model = self.batch(), self.model()
        before = model(batch)
        values = batch.sparse.values().view(-1, 2, batch.pairs)  # by field, both sides
        values.copy_(values.flip(1).clone())
        assert torch.equal(before, model(batch))

    def test_pairs_shown_but_never_clicked_do_not_count(self) -> None:
        batch, model = self.batch(), self.model()
        _, weights = model.targets(batch)
        assert float(weights[batch.kind == 1].sum()) == 0.0


class FlowModel(AnyModel):
    """What holds for every generator."""

    def batch(self, seed: int = 0) -> FlowBatch:
        return flow_batch(8, seed)

    def learning(self) -> dict[str, object]:
        return {"dropout": 0.0, "id_dropout": 0.0, "diversity": 0.0, "velocity": 0.0, "temperature": 0.2, "dim": 16, "layers": 1,
                "future": 4}

    def values(self, model: Model, batch: Batch) -> Tensor:
        return model(batch).flow

    def test_a_flow_is_some_unit_vectors(self) -> None:
        found = self.values(self.model(future=5), self.batch())
        assert found.shape == (8, 5, self.model().config.dim)
        torch.testing.assert_close(found.norm(dim=2), torch.ones(8, 5), **CLOSE)

    def test_what_has_no_weight_does_not_change_the_loss(self) -> None:
        model, batch = self.model(), self.batch()
        batch.weight[::2] = 0
        before = self.loss(model, batch)
        ahead = batch.sparse["future_item"]
        ahead.values()[batch.weight.repeat_interleave(ahead.lengths()) == 0] += 5
        assert torch.equal(before, self.loss(model, batch))

    def test_no_feature_of_the_future_reaches_the_flows(self) -> None:
        model, batch = self.model(), self.batch()
        before = self.values(model, batch)
        start = 0
        for feature, length in zip(batch.sparse.keys(), batch.sparse.length_per_key(), strict=True):
            if feature.startswith(("future_", "negative_")):
                batch.sparse.values()[start: start + length] = 11 - batch.sparse.values()[start: start + length] % 11
            start += length
        batch.future_logq.zero_()
        assert torch.equal(before, self.values(model, batch))
        assert not torch.equal(model(self.batch()).target, model(batch).target)

    def test_a_cut_does_not_depend_on_the_others(self) -> None:
        model, batch = self.model(), self.batch()
        whole = self.values(model, batch)
        for cuts in ([3], [6, 1]):
            torch.testing.assert_close(self.values(model, select_cuts(batch, cuts)), whole[cuts], **CLOSE)

    def test_parts_on_two_ranks_give_the_loss_of_one(self) -> None:
        model, batch = self.model(), self.batch()
        ranks = [select_cuts(batch, [n for n in range(8) if int(batch.part[n]) == part]) for part in (0, 1)]
        whole, first, second = (model.terms(model(b), b) for b in (batch, *ranks))
        torch.testing.assert_close(first.sums + second.sums, whole.sums, **CLOSE)
        torch.testing.assert_close(first.weights + second.weights, whole.weights, **CLOSE)

    def test_an_empty_walk_is_fine(self) -> None:
        batch = flow_batch(4, tokens=(0, 0), visits=(0, 0))
        model = self.model().train()
        assert torch.isfinite(self.values(model, batch)).all() and torch.isfinite(self.loss(model, batch))

    def test_dropout_depends_on_the_step_and_the_row_alone(self) -> None:
        model, batch = self.model(dropout=0.3, id_dropout=0.5).train(), self.batch()
        model.set_step(3)
        whole, part = model(batch), model(select_cuts(batch, [5, 6]))
        torch.testing.assert_close(part.flow, whole.flow[5:7], **CLOSE)
        torch.testing.assert_close(part.negative, whole.negative, **CLOSE)
        model.set_step(4)
        assert not torch.allclose(model(batch).flow, whole.flow) and not torch.allclose(model(batch).negative, whole.negative)
