"""The pre-ranking models on random pages: what each reads, what training adds, and scores from the side tables."""

from pathlib import Path
from typing import Any

import pytest
import torch

from feature_store.encoded_set import EncodedSet
from feature_store.recipe import Recipe
from jobs.train import train
from models.artifact import load_artifact
from models.base import Model
from models.catalog import model_class
from models.losses import global_loss, page_terms
from models.quantiser import code_counts
from models.report import report
from models.scoring import page_scores
from models.tarq import Tarq
from models.towers import product
from tests.models.behaviours import CLOSE, PageModel
from tests.models.encoded import encoded_set
from tests.models.synthetic import ROWS, page_batch, select
from tests.models.test_report import picture


class Prerank(PageModel):
    """What holds for every pre-ranking model."""

    def test_an_item_is_known_by_its_id_and_category_alone(self) -> None:
        model, batch = self.model(), self.batch()
        before = self.values(model, batch)
        batch.candidate_dense.normal_()
        assert torch.equal(before, self.values(model, batch))

    def test_the_place_on_the_page_adds_the_same_to_every_item(self) -> None:
        model, batch = self.model(), self.pages(1, items=(6, 6))
        batch.sparse["candidate_position"].values().fill_(3)
        before = self.values(model, batch)
        batch.sparse["candidate_position"].values().fill_(4)
        apart = self.values(model, batch) - before
        assert float(apart.detach().abs().max()) > 0
        torch.testing.assert_close(apart, apart[:1].expand(6), **CLOSE)

    def test_epochs_are_compared_by_the_clicks_of_what_is_served(self) -> None:
        model, batch = self.model().train(), self.batch()
        output = model(batch)
        torch.testing.assert_close(global_loss(model.validation_terms(output, batch), 1)[0],
                                   global_loss(page_terms(model.logits(output), batch), 1)[0])

    def test_parts_on_two_ranks_give_the_terms_of_one(self) -> None:
        model, batch = self.model().train(), self.pages(12, 2)
        model.set_step(5)
        whole, first, second = (model.terms(model(b), b) for b in (batch, *(select(batch, range(r, 12, 2)) for r in (0, 1))))
        torch.testing.assert_close(first.sums + second.sums, whole.sums, **CLOSE)
        torch.testing.assert_close(first.weights + second.weights, whole.weights, **CLOSE)

    def test_vectors_of_items_are_unit_vectors_that_need_no_page(self) -> None:
        model, batch = self.model(), self.batch()
        item, category = (batch.sparse[f"candidate_{field}"].values() for field in ("item", "category"))
        found = model.items(item, category)  # type: ignore[operator]
        torch.testing.assert_close(found.norm(dim=1), torch.ones(batch.items), **CLOSE)
        torch.testing.assert_close(found, model.look(model.read(batch)).item, **CLOSE)  # type: ignore[operator]


class TestTwoTower(Prerank):
    name = "two_tower"

    def test_untrained_it_prefers_what_is_in_the_history(self) -> None:
        model, batch = self.model(), page_batch(200, ids=300, items=(8, 8), tokens=(3, 3))
        ids = batch.sparse.to_dict()
        for field in ("item", "category"):  # the first shown item of every page is the last token of its user
            ids[f"candidate_{field}"].values()[::8] = ids[f"moveline_{field}"].values()[2::3]
        seen = model.look(model.read(batch))  # type: ignore[operator]
        nearness = (seen.user.repeat_interleave(8, 0) * seen.item).sum(1).view(200, 8)
        assert float((nearness[:, :1] > nearness[:, 1:]).float().mean()) > 0.9

    def test_a_user_without_a_history_has_no_taste(self) -> None:
        model = self.model()
        assert not model.read(page_batch(4, tokens=(0, 0))).taste.any()  # type: ignore[operator]


class TestTargetAttention(Prerank):
    name = "target_attention"

    def test_untrained_its_items_attend_to_different_steps(self) -> None:
        model, batch = self.model(), page_batch(60, ids=300, items=(8, 8), tokens=(9, 9))
        read = model.read(batch)  # type: ignore[operator]
        found = model.exact(read, product(read, model.look(read)))[0]  # type: ignore[operator]
        within = found - read.shown.page_mean(found)
        assert float(within.square().sum() / (found - found.mean(0)).square().sum()) > 0.01


class TestTarq(Prerank):
    name = "tarq"

    def learning(self) -> dict[str, object]:
        return {"dropout": 0.0, "warm_up": 0, "distil": 0.1, "dim": 8, "heads": 1, "codes": 8, "begin": "random"}


def tarq(**settings: Any) -> Tarq:
    model = model_class("tarq").build(settings, ROWS)
    assert isinstance(model, Tarq)
    return model


def scattered(model: Tarq) -> Tarq:
    """The same with larger tables and books, so that items differ in their codes and scores."""
    with torch.no_grad():
        for table in model.tables.collection.embeddings.values():
            table.weight.mul_(30)
        vectors = model.code_vectors(torch.arange(1, 40), torch.arange(1, 40) % 11)
        model.quantiser.books.normal_().mul_(vectors.std())
    return model


def test_the_loss_is_clicks_of_both_and_the_weighted_rest() -> None:
    model, batch = tarq(distil=0.4, align=2.0, reconstruct=3.0, quantise=0.7, warm_up=10, dropout=0.0).train(), page_batch(12)
    output = model(batch)
    mean = {name: float(getattr(output, name).mean()) for name in ("kl", "rest", "quantised", "decoded")}
    clicks = [float(global_loss(page_terms(logits, batch), 1)[0]) for logits in (output.logits, output.teacher)]
    expected = sum(clicks) + 0.4 * (2 * mean["kl"] + 3 * mean["rest"]) + 0.7 * (mean["quantised"] + mean["decoded"])
    assert float(global_loss(model.terms(output, batch), 1)[0]) == pytest.approx(sum(clicks), rel=1e-5)
    model.quantiser.begun.fill_(True)  # the warm-up is over
    assert float(global_loss(model.terms(output, batch), 1)[0]) == pytest.approx(expected, rel=1e-5)


def test_alignment_and_reconstruction_teach_everything_but_the_teacher() -> None:
    model, batch = scattered(tarq()).train(), page_batch(12)
    output = model(batch)
    (output.kl.sum() + output.rest.sum()).backward()
    assert all(p.grad is None for p in model.teacher.parameters())
    for part in (model.quantiser, model.encoder, model.personal, model.history):
        assert sum(float(p.grad.abs().sum()) for p in part.parameters()) > 0
        assert all(torch.isfinite(p.grad).all() for p in part.parameters())


def test_the_teacher_learns_from_its_own_clicks() -> None:
    model, batch = tarq().train(), page_batch(12)
    model(batch).teacher.sum().backward()
    assert all(p.grad is not None for p in model.teacher.parameters()) and model.personal.query.weight.grad is None


def test_scoring_runs_neither_teacher_nor_decoder(tmp_path: Path) -> None:
    model, pages = tarq().eval(), encoded_set(tmp_path / "pages", "pages", 20).read()
    before = page_scores(model, pages)
    model.teacher = model.decoder = None  # type: ignore[assignment]
    assert (page_scores(model, pages) == before).all()


def test_scores_from_codes_and_item_vectors_are_those_of_the_model() -> None:
    model, batch = scattered(tarq(hidden=(16, 8))).eval(), page_batch(6, items=(5, 9))
    batch.sparse["candidate_position"].values().zero_()
    item, category = (batch.sparse[f"candidate_{field}"].values() for field in ("item", "category"))
    codes, vectors = model.codes(item, category), model.items(item, category)
    output = model(batch)
    assert torch.equal(output.codes, codes) and len(torch.unique(codes, dim=0)) > 20
    parts = zip(*(x.split(batch.lengths.tolist()) for x in (codes, vectors, output.logits)), strict=True)
    for page, (of_codes, of_vectors, expected) in enumerate(parts):
        person = model.person(select(batch, [page]))
        own = model.scores(person, of_codes, of_vectors)
        assert torch.equal(own, model.scores(person, of_codes.int(), of_vectors))  # as the table holds them
        apart = (expected - own).detach()  # the level of the page, the same for all of its items
        assert float(own.std()) > 1e-2
        torch.testing.assert_close(apart, apart[:1].expand(len(apart)), rtol=0, atol=1e-5)


def test_codes_begin_at_the_end_of_the_warm_up_and_all_of_them_are_used() -> None:
    model, batch = scattered(tarq(codes=16, warm_up=3)).train(), page_batch(40)
    batch.weight[::3] = 0
    use = []
    for step in (2, 3, 4, 3):  # the last as a warm start has it: with books, but at an early step
        model.set_step(step)
        books = model.quantiser.books.detach().clone()
        counts = code_counts(model(batch).codes, batch.weight, 16)
        use.append(((counts > 0).float().mean(1).tolist(), torch.equal(books, model.quantiser.books)))
    assert [kept for _, kept in use] == [True, False, True, True]
    assert min(use[0][0]) < 1.0 and use[1][0] == [1.0, 1.0, 1.0]


def recipe(**settings: Any) -> Recipe:
    source = {"inputs": {}, "events": [{"from": "a", "columns": {}}]}
    return Recipe.model_validate({"name": "random", "source": source, "models": {"tarq": settings}})


def sets(tmp_path: Path) -> tuple[EncodedSet, EncodedSet]:
    return encoded_set(tmp_path / "train", "pages", 400), encoded_set(tmp_path / "validate", "pages", 80, seed=1)


def test_a_small_run_learns_and_its_report_shows_the_codes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / "var"))
    settings = {"dim": 8, "codes": 16, "items_a_batch": 256, "epochs": 4, "warm_up": 10, "learning_rate": 5e-3, "patience": 4}
    made = train(recipe(**settings), "tarq", *sets(tmp_path), tmp_path / "out")
    assert max(row["validate_auc"] for row in made.history) > 0.55
    assert sum(made.losses[-5:]) < sum(made.losses[:5])
    last = made.history[-1]
    assert all(0 < last[f"validate_code_use_{level}"] <= 1 for level in (1, 2, 3)) and last["validate_code_entropy"] > 0
    page = report("x", {"metrics": {"model": {}}, "reads": "pages", "rows": {}, "curves": {}, "scenarios": {}, "differences": {}},
                  made.history, picture(), {}, {})
    assert "Code books" in page and f"{last['validate_code_use_3']:.1%}" in page
    pages = encoded_set(tmp_path / "test", "pages", 20, seed=2).read()
    first, again = (load_artifact(made.folder) for _ in range(2))
    assert isinstance(first, Model) and (page_scores(first, pages) == page_scores(again, pages)).all()


@pytest.mark.drill
def test_two_processes_train_as_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """k-means on every rank, code counts added up over ranks, and a rank that runs dry."""
    settings = {"dim": 8, "codes": 16, "items_a_batch": 64, "epochs": 1, "warm_up": 5}
    found = []
    pages = sets(tmp_path)
    for processes in (1, 2):
        monkeypatch.setenv("MOVELINE_HOME", str(tmp_path / f"var{processes}"))
        found.append(train(recipe(**settings), "tarq", *pages, tmp_path / f"out{processes}", processes=processes))
    assert len(found[0].losses) > 15 and found[1].losses == pytest.approx(found[0].losses, abs=1e-3)
    assert found[1].history[0]["validate_code_use"] == pytest.approx(found[0].history[0]["validate_code_use"], abs=0.05)
