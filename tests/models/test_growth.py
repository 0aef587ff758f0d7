from pathlib import Path

import pytest
import torch

from feature_store.errors import ModelError
from models.artifact import Weights, grown_weights, load_artifact, load_weights, save_artifact
from models.catalog import model_class
from models.distributed import fused_state, gather, process_group
from models.embeddings import capacities, capacity, initial_rows
from models.trainer import Trainer
from tests.models.synthetic import ROWS, PageList, page_batch

ITEM = "tables.collection.embeddings.item.weight"
BATCHES = [page_batch(16, seed) for seed in range(4)]


def _trained(folder: Path) -> Path:
    model = model_class("din").build({"epochs": 1}, ROWS)
    with process_group() as place:
        trainer = Trainer(model, place, PageList(BATCHES), None, folder / "checkpoints")
        trainer.fit()
        return save_artifact(folder / "model", model, trainer.weights())


def test_a_capacity_has_headroom_and_never_shrinks() -> None:
    assert capacity(1000) == 1280
    first = capacities({"item": 1000})
    assert first["item"] == 1280 and first["hour"] == 32
    assert capacities({"item": 1200}, first)["item"] == 1280
    assert capacities({"item": 2000}, first)["item"] == 2560
    assert capacities({"item": 10}, first)["item"] == 1280


def test_a_rows_starting_values_do_not_depend_on_the_capacity() -> None:
    assert torch.equal(initial_rows("item", 256, 8, 1), initial_rows("item", 1000, 8, 1)[:256])
    assert not torch.equal(initial_rows("item", 256, 8, 1), initial_rows("scene", 256, 8, 1))


def test_old_ids_score_bit_equal_after_growth_and_optimiser_state_is_kept(tmp_path: Path) -> None:
    folder = _trained(tmp_path)
    old, model = load_weights(folder), load_artifact(folder)
    larger = model_class("din").build(model.config.model_dump(), {**model.rows, "item": 1024})
    grown = grown_weights(old, larger)
    larger.load_state_dict(grown.model)
    assert torch.equal(model(BATCHES[0]), larger.eval()(BATCHES[0]))
    assert torch.equal(grown.model[ITEM][768:], initial_rows("item", 1024, 16, 7)[768:])
    state = f"{ITEM}/item.momentum1"
    assert float(old.fused[state].sum()) > 0
    assert torch.equal(grown.fused[state][:768], old.fused[state]) and float(grown.fused[state][768:].sum()) == 0

    with process_group() as place:
        trainer = Trainer(larger, place, PageList([page_batch(8, 9, ids=1000)]), None, tmp_path / "warm", start=grown)
        assert torch.equal(gather(fused_state(trainer.wrapped))[state], grown.fused[state])
        assert torch.equal(trainer.wrapped.eval()(BATCHES[0]).detach(), model(BATCHES[0]).detach())
        trainer.fit()
        assert not torch.equal(trainer.weights().model[ITEM], grown.model[ITEM])


def test_a_table_cannot_shrink_and_a_layer_cannot_change(tmp_path: Path) -> None:
    model = model_class("din").build({}, ROWS)
    weights = Weights(model.state_dict(), {})
    with pytest.raises(ModelError, match="let tables grow only"):
        grown_weights(weights, model_class("din").build({}, {**ROWS, "item": 512}))
    with pytest.raises(ModelError, match="keep its settings"):
        grown_weights(weights, model_class("din").build({"hidden": [32, 32]}, ROWS))
