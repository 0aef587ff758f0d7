import torch
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from feature_store.batch import PAIR_FEATURES, PairBatch
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


def test_items_that_were_never_clicked_are_like_those_of_their_category() -> None:
    def batch(seed: int, items: tuple[int, int]) -> PairBatch:
        """Co-click exactly when both categories are of one parity; the items say nothing."""
        made, g = pair_batch(512, seed), torch.Generator().manual_seed(seed)
        ids, categories = torch.randint(*items, (1024,), generator=g), torch.randint(1, 12, (1024,), generator=g)
        values = torch.cat([ids, categories])
        sparse = KeyedJaggedTensor(keys=list(PAIR_FEATURES), values=values, lengths=torch.ones(len(values), dtype=torch.int32))
        left, right = categories[:512], categories[512:]
        return PairBatch(sparse, torch.where(left % 2 == right % 2, 0, 2), made.weight, made.page)

    model = model_class("item2vec").build({"dim": 8}, ROWS).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for step in range(60):
        known = batch(step, (17, 200))
        optimizer.zero_grad()
        terms = model.terms(model(known), known)
        (terms.sums / terms.weights).sum().backward()
        optimizer.step()
    unseen = batch(999, (200, 400))
    labels, weights = model.targets(unseen)
    auc = weighted_auc(model(unseen).detach().numpy(), labels.numpy(), weights.numpy())
    assert auc is not None and auc > 0.9


def test_both_kinds_weigh_the_same_however_rare() -> None:
    batch = pair_batch(400)
    batch.weight[batch.kind == 0] *= 0.01
    terms = pair_terms(torch.zeros(400), batch)
    torch.testing.assert_close(terms.sums / terms.weights, torch.full((2,), 0.6931472))
