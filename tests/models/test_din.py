import torch

from models.catalog import model_class
from models.layers import Jagged, TargetAttention
from tests.models.behaviours import PageModel
from tests.models.synthetic import ROWS, page_batch


class TestDin(PageModel):
    name = "din"

    def test_the_history_changes_the_scores(self) -> None:
        batch, model = page_batch(3, tokens=(5, 5)), self.model()
        before = model(batch)
        batch.sparse.values()[0] += 1
        assert not torch.equal(before, model(batch))

    def test_gradients_reach_tokens_visits_and_trigger(self) -> None:
        model, batch = self.model().train(), self.batch()
        model(batch).square().sum().backward()
        for table in ("item", "category", "scene", "action", "age", "position", "hour", "scenario"):
            assert float(model.tables.collection.embeddings[table].weight.grad.abs().sum()) > 0


def test_the_activation_unit_equals_dins_network_on_q_k_difference_and_product() -> None:
    torch.manual_seed(0)
    unit = TargetAttention(8, 4)
    queries, keys = torch.randn(2, 3, 8), torch.randn(2, 5, 8)
    mask = torch.tensor([[True] * 5, [True, True, False, False, False]])
    # Any network on [q, k, q - k, q * k] with weights A, B, C, D is one on (A + C) q + (B - C) k + D (q * k).
    c = torch.randn(4, 8)
    a, b = unit.item.weight - c, unit.token + c
    expected = torch.zeros(2, 3, 5)
    for page in range(2):
        for item in range(3):
            q = queries[page, item]
            scores = []
            for token in range(5):
                k = keys[page, token]
                hidden = a @ q + b @ k + c @ (q - k) + unit.product @ (q * k) + unit.item.bias
                score = unit.out @ torch.nn.functional.leaky_relu(hidden, 0.1) + unit.bias
                scores.append(score.exp() if mask[page, token] else torch.zeros(1))
            expected[page, item] = torch.cat(scores) / (1 + torch.cat(scores).sum())
    torch.testing.assert_close(unit(queries, keys, mask), expected, rtol=1e-4, atol=1e-5)


def test_padding_and_back_keeps_values_and_page_means_are_per_page() -> None:
    jagged = Jagged(torch.tensor([2, 0, 3]))
    values = torch.arange(5.0)[:, None]
    assert torch.equal(jagged.unpad(jagged.pad(values)), values)
    assert jagged.pad(values).shape == (3, 3, 1)
    assert jagged.page_mean(values).flatten().tolist() == [0.5, 0.5, 3.0, 3.0, 3.0]
    assert jagged.page.tolist() == [0, 0, 2, 2, 2] and jagged.place.tolist() == [0, 1, 0, 1, 2]


def test_jagged_without_values_is_fine() -> None:
    jagged = Jagged(torch.zeros(2, dtype=torch.int32))
    assert jagged.pad(torch.zeros(0, 4)).shape == (2, 1, 4)


def test_a_fresh_din_scores_pages_of_no_history_alike() -> None:
    model = model_class("din").build({}, ROWS).eval()
    batch = page_batch(2, tokens=(0, 0), visits=(0, 0))
    assert float(model(batch).std(unbiased=False)) < 5.0
