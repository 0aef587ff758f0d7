"""Stage 2 begins with the generator's tensors, and leaves the generator as it is."""

from pathlib import Path
from typing import Any

import pytest
import torch

from feature_store.errors import ModelError
from models.artifact import load_artifact, load_weights, save_artifact
from models.catalog import model_class
from models.cross_stage import begun_from
from models.distributed import fused_state, gather, process_group
from models.nif import Nif
from models.trainer import Trainer
from tests.models.synthetic import ROWS, PageList, flow_batch, page_batch

TABLE = "tables.collection.embeddings.{}.weight"
LARGER = {**ROWS, "item": 1_024}
NIF = {"epochs": 1, "future": 3}
AMEN: dict[str, Any] = {"generator": "nif", "future": 3, "epochs": 2}


@pytest.fixture(scope="module")
def generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("generator")
    model = model_class("nif").build(NIF, ROWS)
    with process_group() as place:
        stream = PageList([flow_batch(8, seed) for seed in range(3)])  # type: ignore[list-item]
        trainer = Trainer(model, place, stream, None, folder / "checkpoints")
        trainer.fit()
        return save_artifact(folder / "model", model, trainer.weights())


def test_a_generator_validates_by_info_nce_and_reports_recall_and_collapse(tmp_path: Path) -> None:
    batches: list[Any] = [flow_batch(8, seed) for seed in range(3)]
    model = model_class("nif").build(NIF, ROWS)
    with process_group() as place:
        (figures,) = Trainer(model, place, PageList(batches), PageList(batches), tmp_path).fit()
    assert {"validate_loss", "validate_recall_50", "validate_recall_200", "validate_pairwise_cosine",
            "validate_effective_rank"} <= set(figures)
    assert "validate_auc" not in figures and figures["steps"] == 3 and figures["items_per_s"] > figures["pages_per_s"]


def test_copied_tensors_are_equal_at_step_0_and_the_others_are_fresh(generator: Path, tmp_path: Path) -> None:
    model, old = model_class("amen").build(AMEN, LARGER), load_weights(generator)
    fresh = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    start, copied = begun_from(generator, model)
    assert {TABLE.format(t) for t in ("item", "category", "scene", "action", "age")} <= set(copied)
    assert {"token.mix.weight", "visit.mix.weight", "target.mix.weight", "visits.place"} <= set(copied)
    with process_group() as place:
        trainer = Trainer(model, place, PageList([]), None, tmp_path, start=start)
        found, states = trainer.weights().model, gather(fused_state(trainer.wrapped))
    for name, tensor in found.items():
        if name not in copied:
            assert torch.equal(tensor, fresh[name]), name
        else:
            assert torch.equal(tensor[: len(old.model[name])], old.model[name]), name
    assert torch.equal(found[TABLE.format("item")][768:], fresh[TABLE.format("item")][768:])
    state = f"{TABLE.format('item')}/item.momentum1"
    assert torch.equal(states[state][:768], old.fused[state]) and float(states[state][768:].sum()) == 0
    assert float(states[f"{TABLE.format('hour')}/hour.momentum1"].sum()) == 0


def test_stage_2_leaves_the_generator_and_its_flow_unchanged(generator: Path, tmp_path: Path) -> None:
    frozen, before = load_artifact(generator), load_weights(generator).model
    assert isinstance(frozen, Nif)
    batches = [page_batch(12, seed, first_row=12 * seed) for seed in range(3)]
    with torch.no_grad():
        for batch in batches:
            batch.flow = frozen.flow(batch.sparse, batch.visit_dense)
        flow = batches[0].flow.clone()
    model = model_class("amen").build(AMEN, ROWS)
    start, copied = begun_from(generator, model)
    with process_group() as place:
        trainer = Trainer(model, place, PageList(batches), None, tmp_path, start=start)
        trainer.fit()
        after = trainer.weights().model
    assert all(not torch.equal(after[name], start.model[name]) for name in copied if name.startswith("token."))
    assert all(torch.equal(tensor, before[name]) for name, tensor in frozen.state_dict().items())
    assert torch.equal(frozen.flow(batches[0].sparse, batches[0].visit_dense).detach(), flow)
    assert torch.equal(batches[0].flow, flow)


def test_the_cosine_of_a_candidate_is_the_generators_score_at_step_0(generator: Path) -> None:
    model = model_class("amen").build({**AMEN, "sam": "none"}, ROWS).eval()
    model.load_state_dict(begun_from(generator, model)[0].model)
    frozen, batch = load_artifact(generator), page_batch(5)
    assert isinstance(frozen, Nif)
    item, category = (batch.sparse[f"candidate_{field}"].values() for field in ("item", "category"))
    batch.flow = frozen.flow(batch.sparse, batch.visit_dense).detach()
    best = torch.einsum("nkd,nd->nk", batch.flow[batch.page_of_item], frozen.items(item, category)).amax(1)
    torch.testing.assert_close(1.0 - model(batch).misalignment, best, atol=1e-5, rtol=0)


@pytest.mark.parametrize("settings", [{"dim": 16}, {"heads": 4}, {"visit_layers": 2}])
def test_models_that_do_not_fit_are_named(generator: Path, settings: dict[str, int]) -> None:
    model = model_class("amen").build({**AMEN, **settings}, ROWS)
    with pytest.raises(ModelError, match=rf"model amen has {next(iter(settings))} \d+ and its generator \d+: give both the same"):
        begun_from(generator, model)


def test_a_table_cannot_be_smaller_than_the_generators(generator: Path) -> None:
    with pytest.raises(ModelError, match="let tables grow only"):
        begun_from(generator, model_class("amen").build(AMEN, {**ROWS, "item": 512}))
