"""ccn and its rivals on random pages: what each reads, what training adds, and that serving pays for none of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from feature_store.errors import ModelError
from feature_store.recipe import Recipe
from jobs.train import train
from models.base import Model
from models.catalog import model_class
from models.ccn import Ccn, inverse_frequency, pair_counts
from models.losses import global_loss, page_terms
from models.page_pairs import Sampling, Viewed, pair_losses, supervised_contrast
from models.scoring import page_scores
from tests.models.behaviours import CLOSE, PageModel
from tests.models.encoded import encoded_set
from tests.models.synthetic import ROWS, page_batch, select

ALL = Sampling()


class Triggered(PageModel):
    """What holds for every trigger-aware model."""

    def test_the_trigger_changes_the_scores_and_the_scenario_does_not(self) -> None:
        model, batch = self.model(), self.batch()
        before = self.values(model, batch)
        batch.sparse["scenario"].values().fill_(3)
        assert torch.equal(before, self.values(model, batch)) and "scenario" not in model.rows
        batch.sparse["trigger_item"].values().fill_(7)
        assert not torch.allclose(before, self.values(model, batch))

    def test_a_page_without_a_trigger_is_fine(self) -> None:
        model, batch = self.model().train(), self.batch()
        for field in ("item", "category"):
            batch.sparse[f"trigger_{field}"].values().zero_()
        assert torch.isfinite(self.loss(model, batch)) and torch.isfinite(self.values(model, batch)).all()

    def test_without_a_click_the_loss_of_training_is_that_of_the_clicks(self) -> None:
        model, batch = self.model(**self.bare()).train(), self.batch()
        batch.clicked.zero_()
        model.set_step(1)
        output = model(batch)
        clicks = page_terms(model.logits(output), batch)
        found = global_loss(model.terms(output, batch), 1)[0]
        torch.testing.assert_close(found, clicks.sums[0] / clicks.weights[0])
        found.backward()
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)

    def test_epochs_are_compared_by_clicks_alone(self) -> None:
        model, batch = self.model().train(), self.batch()
        output = model(batch)
        torch.testing.assert_close(global_loss(model.validation_terms(output, batch), 1)[0],
                                   global_loss(page_terms(model.logits(output), batch), 1)[0])

    def test_parts_on_two_ranks_give_the_terms_of_one(self) -> None:
        model, batch = self.model(**self.sampled()).train(), self.pages(12, 2)
        model.set_step(5)
        whole, first, second = (model.terms(model(b), b) for b in (batch, *(select(batch, range(r, 12, 2)) for r in (0, 1))))
        torch.testing.assert_close(first.sums + second.sums, whole.sums, **CLOSE)
        torch.testing.assert_close(first.weights + second.weights, whole.weights, **CLOSE)

    def test_a_batch_without_a_pair_gives_every_parameter_a_gradient(self) -> None:
        model, batch = self.model().train(), self.pages(1, items=(1, 1))
        batch.weight.zero_()
        self.loss(model, batch).backward()
        assert [name for name, p in model.named_parameters() if p.grad is None] == []

    def bare(self) -> dict[str, Any]:
        """Settings of which an unclicked page adds nothing to the loss of clicks."""
        return {}

    def sampled(self) -> dict[str, Any]:
        return {}


class TestCcn(Triggered):
    name = "ccn"

    def bare(self) -> dict[str, Any]:
        return {"pair_weights": (1.0, 0.0, 1.0)}

    def sampled(self) -> dict[str, Any]:
        return {"co_non_click": 1.0, "mono_click": 2.0, "quiet": 0.5}


class TestCcnWithSupervisedContrast(Triggered):
    name = "ccn"

    def model(self, **settings: object) -> Model:
        return super().model(**{"form": "supcon", **settings})


class TestDihn(Triggered):
    name = "dihn"


class TestDei2n(Triggered):
    name = "dei2n"


def ccn(**settings: Any) -> Ccn:
    model = model_class("ccn").build(settings, ROWS)
    assert isinstance(model, Ccn)
    return model


class Forbidden(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the collaborative module ran")


def test_scoring_does_not_run_the_collaborative_module(tmp_path: Path) -> None:
    model, pages = ccn().eval(), encoded_set(tmp_path / "pages", "pages", 20).read()
    before = page_scores(model, pages)
    model.collaborative = Forbidden()  # type: ignore[assignment]
    assert (page_scores(model, pages) == before).all() and model(page_batch(3)).compared.numel() == 0
    with pytest.raises(RuntimeError, match="the collaborative module ran"):
        model.train()(page_batch(3))


def test_a_model_without_pair_losses_has_no_collaborative_module() -> None:
    model, batch = ccn(attract=0, repel=0).train(), page_batch(8)
    assert not [name for name, _ in model.named_parameters() if name.startswith("collaborative")]
    assert model.terms(model(batch), batch).factors == (1.0,)


def test_the_loss_is_clicks_plus_weighted_attraction_and_repulsion() -> None:
    model, batch = ccn(attract=0.3, repel=0.7, temperature=0.4, pair_weights=(5.0, 1.0, 2.0), dropout=0.0).train(), page_batch(20)
    output = model(batch)
    clicks, viewed = page_terms(output.logits, batch), Viewed.of(batch)
    sums, counts = pair_losses(output.compared, viewed, 0.4, ALL), viewed.counts().sum(0)
    attraction = (5 * sums[0] + sums[1]) / (5 * counts[0] + counts[1])
    expected = clicks.sums[0] / clicks.weights[0] + 0.3 * attraction + 0.7 * sums[2] / counts[2]
    torch.testing.assert_close(global_loss(model.terms(output, batch), 1)[0], expected)
    contrast = ccn(form="supcon", attract=0.3, temperature=0.4, dropout=0.0).train()
    output = contrast(batch)
    total, anchors = supervised_contrast(output.compared, viewed, 0.4)
    found = global_loss(contrast.terms(output, batch), 1)[0] - page_terms(output.logits, batch).sums[0] / clicks.weights[0]
    torch.testing.assert_close(found, 0.3 * total / anchors)


def test_the_pair_losses_teach_the_item_vectors_the_trigger_and_the_condition() -> None:
    model, batch = ccn().train(), page_batch(20)
    output = model(batch)
    pair_losses(output.compared, Viewed.of(batch), 0.1, ALL).sum().backward()
    for part in (model.tables, model.target, model.condition, model.attend, model.collaborative):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters() if p.grad is not None) > 0
    assert all(p.grad is None for p in model.head.parameters())


def test_permuted_labels_change_the_pair_losses_alone() -> None:
    batch = page_batch(20)
    own, dealt = (m.terms(m(batch), batch) for m in (ccn(dropout=0.0).train(), ccn(dropout=0.0, labels="permuted").train()))
    assert torch.equal(own.sums[0], dealt.sums[0]) and torch.equal(own.weights, dealt.weights)
    assert not torch.allclose(own.sums[1:], dealt.sums[1:])


def test_sampling_changes_with_the_step() -> None:
    model, batch = ccn(mono_click=1.0, dropout=0.0).train(), page_batch(20)
    found = []
    for step in (1, 1, 2):
        model.set_step(step)
        found.append(float(model.terms(model(batch), batch).sums[2]))
    assert found[0] == found[1] != found[2]


def test_weights_of_the_kinds_come_from_the_training_rows(tmp_path: Path) -> None:
    pages = encoded_set(tmp_path / "pages", "pages", 60)
    clicks = [sum(row) for row in pages.read(["clicked"])["clicked"].to_pylist()]
    sizes = pages.read(["n_items"])["n_items"].to_pylist()
    expected = [sum(c * (c - 1) / 2 for c in clicks), sum((n - c) * (n - c - 1) / 2 for n, c in zip(sizes, clicks, strict=True)),
                sum(c * (n - c) for n, c in zip(sizes, clicks, strict=True))]
    counts = pair_counts(pages)
    assert counts.tolist() == expected
    fitted = Ccn.fitted({"attract": 0.2}, pages)
    assert fitted == {"attract": 0.2, "pair_weights": inverse_frequency(counts)} and min(fitted["pair_weights"]) == 1.0
    assert Ccn.fitted({"pair_weights": [1, 1, 1]}, pages) == {"pair_weights": [1, 1, 1]}


def test_supervised_contrast_takes_all_pairs() -> None:
    with pytest.raises(ModelError, match="supcon has a sum inside its logarithm"):
        ccn(form="supcon", mono_click=2.0)


@pytest.mark.parametrize("name", ["dihn", "dei2n"])
def test_the_intent_is_learnt_from_the_categories_of_clicked_items(name: str) -> None:
    model, batch = model_class(name).build({"dropout": 0.0}, ROWS), page_batch(12, items=(3, 6))
    batch.clicked.zero_()
    batch.clicked[::2] = 1.0
    shown, trigger_of_page = (batch.sparse[f"{kind}_category"].values() for kind in ("candidate", "trigger"))
    trigger_of_page[0] = 0  # a page without a trigger says nothing
    trigger = trigger_of_page[batch.page_of_item]
    output = model(batch)
    counted = (batch.clicked > 0) & (trigger > 0)
    each = nn.functional.binary_cross_entropy_with_logits(output.intent[batch.page_of_item], (shown == trigger).float(),
                                                          reduction="none")
    terms = model.terms(output, batch)
    torch.testing.assert_close(terms.sums[1], each[counted].sum())
    assert float(terms.weights[1]) == int(counted.sum())


def sure(model: Any, chance: float) -> None:
    """Make the intent of every page as good as certain."""
    with torch.no_grad():
        model.intent[2].weight.zero_()
        model.intent[2].bias.fill_(chance)


@pytest.mark.parametrize(("chance", "ignored"), [(-50.0, "of_trigger"), (50.0, "of_item")])
def test_the_chance_of_dei2n_multiplies_the_history_of_the_trigger(chance: float, ignored: str) -> None:
    model, batch = model_class("dei2n").build({}, ROWS).eval(), page_batch(6)
    sure(model, chance)
    before = model(batch).logits
    with torch.no_grad():
        getattr(model, ignored).out.mul_(-1.0)
    torch.testing.assert_close(model(batch).logits, before, **CLOSE)


@pytest.mark.parametrize("chance", [-50.0, 50.0])
def test_the_fused_item_of_dihn_is_the_trigger_when_the_user_is_here_for_it(chance: float, monkeypatch: pytest.MonkeyPatch) -> None:
    model, batch = model_class("dihn").build({}, ROWS).eval(), page_batch(6)
    sure(model, chance)
    asked: list[torch.Tensor] = []
    unit = model.soft.forward  # type: ignore[union-attr]
    monkeypatch.setattr(model.soft, "forward", lambda query, *more: asked.append(query) or unit(query, *more))
    model(batch)
    seen = model.look(batch)  # type: ignore[operator]
    expected = seen.trigger[:, None].expand_as(seen.asked) if chance > 0 else seen.asked
    torch.testing.assert_close(asked[0], expected)


@pytest.mark.drill
def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sampled pairs, weights of their kinds and tables without a scenario, on sharded tables; a rank runs dry."""
    settings = {"items_a_batch": 64, "epochs": 1, "co_non_click": 1.0, "mono_click": 1.0, "quiet": 0.5}
    source = {"inputs": {}, "events": [{"from": "a", "columns": {}}]}
    recipe = Recipe.model_validate({"name": "random", "source": source, "models": {"ccn": settings}})
    pages, found = encoded_set(tmp_path / "train", "pages", 240), []
    for processes in (1, 2):
        monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / f"var{processes}"))
        found.append(train(recipe, "ccn", pages, None, tmp_path / f"out{processes}", processes=processes).losses)
    assert len(found[0]) > 15 and found[1] == pytest.approx(found[0], abs=1e-3)
