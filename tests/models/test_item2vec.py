import torch

from models.catalog import model_class
from models.losses import pair_terms, weighted_auc
from tests.models.behaviours import PairModel
from tests.models.synthetic import ROWS, pair_batch


class TestItem2vec(PairModel):
    name = "item2vec"

    def test_held_out_pairs_are_told_apart(self) -> None:
        model = model_class("item2vec").build({"dim": 8}, ROWS).train()
        optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
        for step in range(80):
            optimizer.zero_grad()
            self.loss(model, pair_batch(512, step)).backward()
            optimizer.step()
        held_out = pair_batch(2_000, 999)
        labels, weights = model.targets(held_out)
        auc = weighted_auc(model(held_out).detach().numpy(), labels.numpy(), weights.numpy())
        assert auc is not None and auc > 0.85


def test_both_kinds_weigh_the_same_however_rare() -> None:
    batch = pair_batch(400)
    batch.weight[batch.kind == 0] *= 0.01
    terms = pair_terms(torch.zeros(400), batch)
    torch.testing.assert_close(terms.sums / terms.weights, torch.full((2,), 0.6931472))
