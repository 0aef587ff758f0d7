from typing import Any

import pytest
import torch

from feature_store.errors import ModelError
from models.base import Model
from models.catalog import model_class
from models.flow_metrics import best_cosine, pairwise_cosine, recalls
from models.layers import Jagged
from models.losses import global_loss
from models.moveline import Walk
from models.nif import Nif
from tests.models.behaviours import CLOSE, FlowModel
from tests.models.synthetic import ROWS, flow_batch, page_batch, select


class TestNif(FlowModel):
    name = "nif"

    def test_pages_have_flows_that_do_not_depend_on_their_batch(self) -> None:
        model, pages = nif(future=3), page_batch(6, seed=4)
        whole = model.flow(pages.sparse, pages.visit_dense)
        assert whole.shape == (6, 3, model.config.dim)
        for chosen in ([2], [5, 0, 4]):
            part = select(pages, chosen)
            torch.testing.assert_close(model.flow(part.sparse, part.visit_dense), whole[chosen], **CLOSE)

    def test_cuts_have_the_same_flows_by_either_way(self) -> None:
        model, batch = nif(), self.batch()
        torch.testing.assert_close(model.flow(batch.sparse, batch.visit_dense), model(batch).flow, **CLOSE)

    def test_only_a_walks_own_features_change_a_pages_flow(self) -> None:
        model, pages = nif(), page_batch(4, seed=1, tokens=(2, 9))
        before = model.flow(pages.sparse, pages.visit_dense)
        start = 0
        for feature, length in zip(pages.sparse.keys(), pages.sparse.length_per_key(), strict=True):
            if not feature.startswith(("moveline_", "visit_")):
                pages.sparse.values()[start: start + length] = 3
            start += length
        assert torch.equal(before, model.flow(pages.sparse, pages.visit_dense))
        pages.visit_dense += 1
        assert not torch.equal(before, model.flow(pages.sparse, pages.visit_dense))


class TestNifOnTheSphere(FlowModel):
    name = "nif"

    def model(self, **settings: object) -> Model:
        return super().model(**{"form": "sphere", **settings})


class TestNifRolledOut(FlowModel):
    name = "nif"

    def model(self, **settings: object) -> Model:
        return super().model(**{"rollout": True, **settings})


class TestNifWithRepeats(FlowModel):
    name = "nif"

    def model(self, **settings: object) -> Model:
        return super().model(**{"repeats": True, **settings})


def nif(**settings: Any) -> Nif:
    model = model_class("nif").build(settings, ROWS).eval()
    assert isinstance(model, Nif)
    return model


def test_a_step_of_the_flow_depends_on_the_steps_before_it_alone() -> None:
    model, batch = nif(rollout=True, future=4), flow_batch(4)
    before = model(batch).flow
    with torch.no_grad():
        model.steps[2:] += 1.0
    after = model(batch).flow
    assert torch.equal(before[:, :2], after[:, :2]) and not torch.allclose(before[:, 2:], after[:, 2:])


def test_futures_beyond_k_do_not_count() -> None:
    model, batch = nif(future=1), flow_batch(8)
    assert float(model.validation_terms(model(batch), batch).weights) == 8
    one = flow_batch(8)
    lengths = one.sparse["future_item"].lengths()
    item = one.sparse["future_item"].values()
    item[Jagged(lengths).place > 0] = 7
    assert torch.equal(model(batch).target, model(one).target)


def test_settings_that_do_not_fit_each_other_are_named() -> None:
    with pytest.raises(ModelError, match="velocity_mode is of the flat form"):
        nif(form="sphere", velocity_mode="plain")
    with pytest.raises(ModelError, match="dim 32 is no multiple of heads 5"):
        nif(heads=5)


@pytest.mark.parametrize("settings", [{}, {"form": "sphere"}, {"velocity_mode": "plain"}])
def test_weights_of_the_regularisers_are_factors_of_the_loss(settings: dict[str, Any]) -> None:
    batch = flow_batch(8)
    both = nif(diversity=0.3, velocity=0.7, history=0, **settings)
    terms = both.terms(both(batch), batch)
    each = terms.sums / terms.weights
    torch.testing.assert_close(global_loss(terms, 1)[0], each[0] + 0.3 * each[1] + 0.7 * each[2])
    neither = nif(diversity=0, velocity=0, history=0, **settings)
    assert len(neither.terms(neither(batch), batch).sums) == 1


def test_items_without_an_id_of_their_own_are_told_apart_by_their_category() -> None:
    model = nif()
    vectors = model.items(torch.tensor([0, 0, 5]), torch.tensor([3, 4, 3]))
    torch.testing.assert_close(vectors.norm(dim=1), torch.ones(3))
    assert not torch.allclose(vectors[0], vectors[1]) and not torch.allclose(vectors[0], vectors[2])


def test_an_id_is_dropped_for_all_of_its_occurrences_in_a_step() -> None:
    model, batch = nif(id_dropout=0.5).train(), flow_batch(64, ids=30, negatives=300)
    found, item = model(batch).negative, batch.sparse["negative_item"].values()
    dropped = [float((found[item == i] - found[item == i][0]).abs().max()) for i in item.unique()]
    assert max(dropped) < 1e-6


def test_an_item_without_content_keeps_its_id() -> None:
    model, batch = nif(id_dropout=0.9).train(), flow_batch(16, negatives=100)
    item, category = batch.sparse["negative_item"].values(), batch.sparse["negative_category"].values()
    category[::2] = 0
    found = model(batch).negative.detach()
    torch.testing.assert_close(found[::2], model.eval().items(item[::2], category[::2]), **CLOSE)
    assert not torch.allclose(found[1::2], model.items(item[1::2], category[1::2]))


@pytest.mark.parametrize("history", [0, 1, 3])
def test_the_last_tokens_of_a_walk_are_foreseen_from_those_before_them(history: int) -> None:
    batch = flow_batch(9, tokens=(0, 6))
    model, line = nif(history=history, diversity=0, velocity=0), batch.sparse["moveline_item"]
    walks = [own.tolist() for own in line.values().split(line.lengths().tolist())]
    wanted = [own[p] for own in walks for p in range(max(1, len(own) - history), len(own)) if own[p] != own[p - 1]]
    found = model(batch)
    assert len(found.seen) == len(wanted)
    if history:
        torch.testing.assert_close(found.walk, model.items(line.values(), 1 + line.values() % 11), **CLOSE)
        assert float(model.terms(found, batch).weights[-1]) == len(wanted)


def test_it_learns_which_items_come_next() -> None:
    # The walks of these batches are drawn at random: nothing within them can be foreseen.
    model = nif(future=3, dropout=0.0, id_dropout=0.1, dim=16, diversity=0.01, history=0).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(120):
        model.set_step(step)
        batch = flow_batch(48, seed=step, tokens=(1, 4), first_row=48 * step)
        optimizer.zero_grad()
        global_loss(model.terms(model(batch), batch), 1)[0].backward()
        optimizer.step()
    model.eval()
    batch = flow_batch(200, seed=999, tokens=(1, 4))
    items = torch.arange(1, 60)
    score = best_cosine(model(batch).flow, model.items(items, 1 + items % 11))
    first = batch.sparse["future_item"].values()[batch.sparse["future_item"].offsets()[:-1]]
    hits = (items[score.topk(5, 1).indices] == first[:, None]).any(1).float().mean()
    assert float(hits) > 0.9
    measured = {name: float(own[0] / own[1]) for name, own in model.measures(model(batch), batch).items()}
    assert set(measured) == {"recall_50", "recall_200", "pairwise_cosine", "effective_rank"}
    assert measured["effective_rank"] > 4 and measured["pairwise_cosine"] < 0.99


@pytest.mark.parametrize("comes_again", [True, False])
def test_it_learns_whether_items_of_the_walk_come_again(comes_again: bool) -> None:
    model = nif(future=1, dropout=0.0, dim=16, diversity=0, velocity=0, history=0, repeats=True).train()
    assert model.repeat is not None
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for step in range(40):
        model.set_step(step)
        batch = flow_batch(48, seed=step, tokens=(2, 5), first_row=48 * step)
        line, coming = batch.sparse["moveline_item"], batch.sparse["future_item"]
        first = line.values()[line.offsets()[:-1]]
        if comes_again:
            coming.values()[coming.offsets()[:-1]] = first
        else:
            coming.values()[coming.offsets()[:-1]] = 59 - line.values().remainder(2)[line.offsets()[:-1]]
            line.values().clamp_(max=57)
        optimizer.zero_grad()
        global_loss(model.terms(model(batch), batch), 1)[0].backward()
        optimizer.step()
    assert float(model.repeat) * (1 if comes_again else -1) > 0.02


def test_an_item_of_the_walk_gains_what_was_learned_and_any_other_nothing() -> None:
    model, batch = nif(future=2, repeats=True), flow_batch(5, tokens=(0, 6))
    assert model.repeat is not None
    model.repeat.data.fill_(-0.25)
    line, item = batch.sparse["moveline_item"], torch.arange(1, 60)
    walks = [own.tolist() for own in line.values().split(line.lengths().tolist())]
    expected = torch.tensor([[-0.25 * (one in own) for one in item.tolist()] for own in walks])
    assert torch.equal(model.lift(model.line(batch), item), expected)
    steps = Jagged(torch.tensor([2, 0, 1, 2, 1]))
    futures = torch.tensor([7, walks[0][0] if walks[0] else 7, 9, walks[3][-1] if walks[3] else 9, 11, 12])
    own, others = model.lifts(batch, steps, futures, item)
    assert torch.equal(others, expected[steps.page])
    assert torch.equal(own, expected[steps.page, futures - 1])


def test_recall_counts_better_items_and_ties_but_not_the_item_itself() -> None:
    flow = torch.tensor([[[1.0, 0.0]]])
    others = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]])
    target, steps = torch.tensor([[0.8, 0.6]]), Jagged(torch.tensor([1]))
    found = recalls(flow, target, torch.tensor([7]), steps, others, torch.tensor([1, 2, 3]), (1, 2, 3))
    assert found.flatten().tolist() == [0.0, 0.0, 1.0]
    itself = recalls(flow, target, torch.tensor([2]), steps, others, torch.tensor([1, 2, 3]), (1, 2, 3))
    assert itself.flatten().tolist() == [0.0, 1.0, 1.0]
    lifts = torch.tensor([0.3]), torch.tensor([[0.0, 0.0, 1.2]])
    lifted = recalls(flow, target, torch.tensor([7]), steps, others, torch.tensor([1, 2, 3]), (1, 2, 3), lifts)
    assert lifted.flatten().tolist() == [0.0, 1.0, 1.0]


def test_collapsed_flows_have_cosine_one() -> None:
    flow = torch.nn.functional.normalize(torch.randn(3, 1, 6), dim=2).expand(-1, 5, -1)
    torch.testing.assert_close(pairwise_cosine(flow), torch.ones(3))


def test_walks_of_any_length_are_encoded_as_if_alone() -> None:
    walk = Walk(16, 2, 2, 0.0, 100)
    lengths = torch.tensor([0, 1, 8, 9, 16, 17, 40, 3])
    line, row = Jagged(lengths), torch.arange(8)
    steps = torch.randn(line.total, 16)
    found = walk(steps, line, row)
    assert found.shape == (8, 40, 16)
    for n, own in enumerate(steps.split(lengths.tolist())):
        alone = walk(own, Jagged(lengths[n: n + 1]), row[:1])[0, : int(lengths[n])]
        torch.testing.assert_close(found[n, : int(lengths[n])], alone, **CLOSE)
