from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from feature_store.errors import ModelError
from models.base import Model
from models.catalog import model_class
from models.distributed import process_group
from models.losses import weighted_auc
from models.trainer import Trainer
from tests.models.synthetic import ROWS, PageList, PairList, page_batch, pair_batch

TRAIN = [page_batch(24, seed, first_row=24 * seed) for seed in range(12)]
VALIDATE = [page_batch(24, seed) for seed in range(100, 106)]


def fit(folder: Path, name: str = "din", train: Any = None, validate: Any = None, **settings: Any) -> tuple[Trainer, Model]:
    model = model_class(name).build(settings, ROWS)
    with process_group() as place:
        trainer = Trainer(model, place, train or PageList(TRAIN), validate, folder)
        trainer.fit()
        trainer.best = trainer.weights()
    return trainer, model


def test_training_lowers_the_validation_loss_and_raises_auc(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, validate=PageList(VALIDATE), epochs=6, learning_rate=5e-3, patience=5)
    history = trainer.progress.history
    best = history[trainer.progress.best_epoch]
    assert best["validate_loss"] < history[0]["validate_loss"]
    assert best["validate_auc"] > 0.6
    assert {"epoch", "steps", "train_loss", "pages_per_s", "items_per_s", "data_wait", "memory_mb"} <= set(best)
    assert len(trainer.progress.losses) == sum(h["steps"] for h in history)


def test_the_same_seeds_give_the_same_weights(tmp_path: Path) -> None:
    first, second = (fit(tmp_path / str(n), epochs=2)[0].weights().model for n in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_training_stops_early_and_keeps_the_best_epoch(tmp_path: Path) -> None:
    noise = [page_batch(24, seed) for seed in range(3)]
    trainer, _ = fit(tmp_path, train=PageList(noise), validate=PageList(VALIDATE[:2]), epochs=40, patience=1, learning_rate=0.02,
                     dropout=0)
    found = [h["validate_auc"] for h in trainer.progress.history]
    assert len(found) < 40
    assert trainer.progress.best_epoch == found.index(max(found)) == len(found) - 3
    loss = trainer.progress.history[trainer.progress.best_epoch]["validate_loss"]
    model = model_class("din").build({"dropout": 0.0}, ROWS).eval()
    model.load_state_dict(trainer.weights().model)
    terms = [model.terms(model(batch), batch) for batch in VALIDATE[:2]]
    assert float(sum(t.sums for t in terms) / sum(t.weights for t in terms)) == pytest.approx(loss, abs=1e-5)


def test_a_loss_that_is_not_finite_stops_before_any_weight_changes(tmp_path: Path) -> None:
    model = model_class("din").build({}, ROWS)
    spoilt = page_batch(4)
    spoilt.candidate_dense[0, 0] = float("inf")
    with process_group() as place:
        trainer = Trainer(model, place, PageList([spoilt]), None, tmp_path)
        before = trainer.weights().model
        with pytest.raises(ModelError, match=r"model din: the loss of step 0 is nan; no weight was changed"):
            trainer.fit()
        after = trainer.weights().model
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_nothing_to_validate_on_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="there is nothing to validate on"):
        fit(tmp_path, validate=PageList([]), epochs=1)


def test_a_stream_that_ends_too_soon_is_an_error(tmp_path: Path) -> None:
    class Short(PageList):
        def steps(self, epoch: int) -> int:
            return len(self.batches) + 1

    with pytest.raises(ModelError, match="the stream of epoch 0 ended after 2 of its 3 steps"):
        fit(tmp_path, train=Short(TRAIN[:2]), epochs=1)


def test_pairs_train_in_the_same_loop(tmp_path: Path) -> None:
    pairs = PairList([pair_batch(512, seed) for seed in range(20)])  # type: ignore[list-item]
    held_out = PairList([pair_batch(512, 99)])  # type: ignore[list-item]
    trainer, _ = fit(tmp_path, "item2vec", pairs, held_out, epochs=5, patience=5)
    assert max(h["validate_auc"] for h in trainer.progress.history) > 0.8


@settings(deadline=None, max_examples=50)
@given(st.lists(st.tuples(st.integers(0, 4), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30))
def test_auc_is_the_share_of_pairs_in_order(rows: list[tuple[int, bool, int]]) -> None:
    good = total = 0.0
    for score, label, weight in rows:
        for other, negative, its in rows:
            if label and not negative:
                total += weight * its
                good += weight * its * ((score > other) + 0.5 * (score == other))
    scores, labels, weights = (torch.tensor([float(r[n]) for r in rows]).double().numpy() for n in range(3))
    found = weighted_auc(scores, labels, weights)
    assert found is None if total == 0 else found == pytest.approx(good / total)


def test_decay_shrinks_the_rows_that_batches_touch_and_no_others(tmp_path: Path) -> None:
    start, rows = model_class("din").build({}, ROWS).state_dict(), "tables.collection.embeddings.item.weight"
    plain, decayed = (fit(tmp_path / str(decay), train=PageList(TRAIN[:3]), epochs=1, table_decay=decay)[0].weights().model[rows]
                      for decay in (0.0, 10.0))
    touched = (plain != start[rows]).any(1)
    assert touched.any() and not touched.all()
    assert torch.equal(decayed[~touched], start[rows][~touched])
    assert float(decayed[touched].norm()) < 0.8 * float(plain[touched].norm())
