"""Batches move as a whole, whatever they hold."""

import pytest
import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from feature_store.batch import FEATURES, FLOW_FEATURES, FLOW_TABLES, FlowBatch, PageBatch


def empty(keys: tuple[str, ...]) -> KeyedJaggedTensor:
    return KeyedJaggedTensor(list(keys), torch.zeros(0, dtype=torch.long), lengths=torch.zeros(len(keys), dtype=torch.int32))


def test_a_flow_batch_moves_with_all_its_tensors() -> None:
    one = torch.ones(1)
    batch = FlowBatch(empty(FLOW_FEATURES), torch.zeros(0, 4), one, one, one.long(), one.long(), one.long(), one.long(), one)
    moved = batch.to(torch.device("meta"))
    assert {t.device.type for t in (moved.visit_dense, moved.weight, moved.sparse.values())} == {"meta"}
    assert (batch.cuts, batch.futures) == (1, 1)
    assert set(FLOW_TABLES) <= {"item", "category", "scene", "action", "age"}


@pytest.mark.parametrize("flow", [None, torch.ones(1, 8, 4)])
def test_a_page_batch_moves_with_or_without_a_flow(flow: torch.Tensor | None) -> None:
    one = torch.ones(1)
    batch = PageBatch(empty(FEATURES), torch.zeros(1, 3), torch.zeros(0, 4), one, one, one.long(), one.long(), one.long(), flow)
    moved = batch.to(torch.device("meta")).flow
    assert moved is None if flow is None else moved is not None and moved.device.type == "meta"
