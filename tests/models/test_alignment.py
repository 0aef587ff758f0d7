from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.alignment import GatedAttention, SemanticAlignment
from models.scene_spaces import SceneSpaces
from tests.models import oracles

B, L, K, D = 2, 3, 4, 8


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


def numbers(x: Tensor) -> np.ndarray[Any, Any]:
    return x.detach().double().numpy()


def linear(layer: nn.Linear, x: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return x @ numbers(layer.weight).T + (0 if layer.bias is None else numbers(layer.bias))


def sigmoid(x: float) -> float:
    return float(1 / (1 + np.exp(-x)))


@pytest.mark.parametrize("kind", ["full", "cos_gate"])
def test_gates_and_cosines_equal_the_formula_step_by_step(kind: Any) -> None:
    sam = SemanticAlignment(D, kind, 5)
    for parameter in sam.parameters():
        nn.init.normal_(parameter, 0, 0.5)
    flow, candidates, context = torch.randn(B, K, D), torch.randn(B, L, D), torch.randn(B, D)
    steps, gate, cosine, misaligned = sam(flow, candidates, context)
    for page in range(B):
        layers = (sam.map.weight, sam.map.bias, sam.norm.weight, sam.norm.bias)
        f = oracles.aligned(numbers(flow[page]), *(numbers(parameter) for parameter in layers))
        np.testing.assert_allclose(numbers(steps[page]), f, atol=1e-5)
        for item in range(L):
            e = numbers(candidates[page, item])
            cos = oracles.cosines(f, linear(sam.candidate, e))
            np.testing.assert_allclose(numbers(cosine[page, item]), cos, atol=1e-5)
            assert float(misaligned[page, item]) == pytest.approx(1 - cos.max(), abs=1e-5)
            for k in range(K):
                if kind == "cos_gate":
                    expected = sigmoid(float(sam.line[0]) * cos[k] + float(sam.line[1]))
                else:
                    hidden = (linear(sam.step, f[k]) + linear(sam.item, e) + linear(sam.context, numbers(context[page]))
                              + numbers(sam.product) @ (f[k] * e) + numbers(sam.cosine) * cos[k])
                    expected = sigmoid(float(np.where(hidden > 0, hidden, 0.1 * hidden) @ numbers(sam.out) + float(sam.bias)))
                assert float(gate[page, item, k]) == pytest.approx(expected, abs=1e-5)


def test_without_alignment_the_flow_is_taken_as_it_is() -> None:
    flow = torch.randn(B, K, D)
    steps, gate, _, _ = SemanticAlignment(D, "none", 5)(flow, torch.randn(B, L, D), torch.randn(B, D))
    assert torch.equal(steps, flow) and torch.equal(gate, torch.ones(B, L, K))


def test_a_fresh_alignment_keeps_the_order_of_the_cosines() -> None:
    flow = torch.nn.functional.normalize(torch.randn(B, K, 64), dim=2)
    candidates = torch.randn(B, L, 64)
    _, _, cosine, _ = SemanticAlignment(64, "full", 5)(flow, candidates, torch.randn(B, 64))
    plain = torch.bmm(torch.nn.functional.normalize(candidates, dim=2), flow.transpose(1, 2))
    assert float(torch.corrcoef(torch.stack([cosine.flatten(), plain.flatten()]))[0, 1]) > 0.95


def test_misalignment_moves_the_flow_toward_the_item_and_never_the_item() -> None:
    sam, candidates = SemanticAlignment(D, "full", 5), torch.randn(B, L, D, requires_grad=True)
    sam(torch.randn(B, K, D), candidates, torch.randn(B, D))[3].sum().backward()
    assert candidates.grad is None and sam.candidate.weight.grad is None
    assert float(sam.map.weight.grad.abs().sum()) > 0


@pytest.mark.parametrize("heads", [1, 2])
def test_gated_attention_equals_attention_on_gated_steps(heads: int) -> None:
    layer, candidates, steps, gate = GatedAttention(D, heads), torch.randn(B, L, D), torch.randn(B, K, D), torch.rand(B, L, K)
    found = layer(candidates, steps, gate)
    for page in range(B):
        for item in range(L):
            gated = numbers(steps[page]) * numbers(gate[page, item])[:, None]
            keys, values = np.split(linear(layer.memory, gated), 2, axis=1)
            query = linear(layer.query, numbers(candidates[page, item]))
            expected = linear(layer.out, oracles.attended(query, keys, values, heads))
            np.testing.assert_allclose(numbers(found[page, item]), expected, atol=1e-5)


def test_the_items_of_a_visit_are_pooled_over_the_tokens_of_its_scene() -> None:
    spaces = SceneSpaces(D, 2)
    nn.init.constant_(spaces.nearness, 0.7)
    visits, scene, tokens, apart = torch.randn(1, 3, D), torch.randn(1, 3, D), torch.randn(1, 4, D), torch.rand(1, 3, 4) * 5
    near = torch.tensor([[[True, True, False, True], [False, False, True, False], [False] * 4]])
    found = numbers(spaces.pool(visits, scene, tokens, near, apart)[0])
    fall = float(np.log1p(np.exp(0.7)))
    for visit in range(3):
        inside = [t for t in range(4) if near[0, visit, t]]
        score = np.exp([linear(spaces.token, numbers(tokens[0, t]))[0] - fall * float(apart[0, visit, t]) for t in inside])
        pooled = (linear(spaces.empty, numbers(scene[0, visit])) if not inside
                  else score / score.sum() @ numbers(tokens[0, inside]))
        gate = 1 / (1 + np.exp(-linear(spaces.gate, numbers(visits[0, visit]))))
        np.testing.assert_allclose(found[visit], linear(spaces.into, pooled * gate), atol=1e-5)


def test_both_spaces_are_defined_without_any_visit_and_ignore_what_is_masked() -> None:
    spaces, candidates, asked = SceneSpaces(D, 2), torch.randn(1, L, D), torch.randn(1, L, 3 * D)
    nothing = torch.zeros(1, 2, dtype=torch.bool)
    first, second = (spaces(candidates, asked, torch.randn(1, 2, D), nothing, torch.randn(1, 2, D)) for _ in range(2))
    assert torch.equal(first, second) and torch.isfinite(first).all()
