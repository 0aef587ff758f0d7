"""Retrieval by vectors: the items that lie nearest to what a user is expected to want, or wanted last.

`nif` gives a user K vectors, the steps of the flow; `item2vec` has no vector of a user: those of the last items of the moveline
take its place. The score of an item is the largest cosine to any of them (`models.flow_metrics.best_cosine`), with what a generator
adds to items of the moveline (`Nif.lift`). Loads no Spark.
"""

from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from feature_store.collate import flat, lengths
from feature_store.encoding import encode_history
from feature_store.errors import ModelError
from feature_store.folds import fold_of
from feature_store.vocabulary import Vocabulary
from models.artifact import VOCABULARY, describe, load_artifact
from models.generator import Generator
from models.item2vec import Item2vec
from models.layers import Jagged

LAST = 8
"""Items of a moveline that stand for the user, of a model without vectors of users."""

_USERS_AT_ONCE = 256


class Retriever:
    """An artifact of `nif` or `item2vec`, and the items to choose from.

    Parameters
    ----------
    items : columns item_id (distinct) and category_id. Those the version's vocabulary does not know are left out.

    Raises
    ------
    ModelError : the folder holds no complete artifact, its model has no vectors to compare, or it knows none of the items.
    """

    def __init__(self, folder: str | Path, items: pa.Table) -> None:
        name = describe(folder)["name"]
        if name not in ("nif", "item2vec"):
            raise ModelError(f"model {name} has no vectors of users and items to compare; nif and item2vec have")
        self.words = Vocabulary.load(Path(folder) / VOCABULARY)
        known = self.words.encode("item", items["item_id"]) > self.words.buckets
        self.candidates = items.filter(pa.array(known)).sort_by("item_id").combine_chunks()
        if not len(self.candidates):
            raise ModelError(f"{folder}: its vocabulary knows none of the {len(items)} items to choose from; train it again")
        self._item = torch.from_numpy(self.words.encode("item", self.candidates["item_id"]))
        self.generator = Generator(folder, self.words) if name == "nif" else None
        self.model = None if self.generator else load_artifact(folder)
        self._vectors = [self._vectors_of(fold) for fold in range(self.generator.folds if self.generator else 1)]

    def _vectors_of(self, fold: int) -> Tensor:
        item, category = self.candidates["item_id"], self.candidates["category_id"]
        if self.generator:
            return torch.from_numpy(self.generator.vectors(fold, item, category))
        return self._of_items(self.words.encode("item", item), self.words.encode("category", category))

    @torch.no_grad()
    def _of_items(self, item: np.ndarray, category: np.ndarray) -> Tensor:
        if not isinstance(self.model, Item2vec):
            raise ModelError("only item2vec gives vectors of items without a generator")
        return self.model.items(torch.from_numpy(item), torch.from_numpy(category))

    def top(self, rows: pa.Table, most: int) -> tuple[list[list[str]], list[list[float]]]:
        """The ids of at most `most` items for each user, the best first (ties by id), and their scores.

        A user with nothing to go by (`item2vec`, and no item in the moveline) gets none.

        Parameters
        ----------
        rows : user_id, cut_time, and the columns of tokens and visits of the table `flows`.
        """
        history, fold = encode_history(rows, self.words), fold_of(rows["user_id"], len(self._vectors))
        found = np.zeros((len(rows), min(most, len(self.candidates))), np.int64)
        score = np.full(found.shape, np.nan)
        for number, vectors in enumerate(self._vectors):
            place = np.flatnonzero(fold == number)
            for start in range(0, len(place), _USERS_AT_ONCE):
                some = place[start:start + _USERS_AT_ONCE]
                rows_of_some = history.take(pa.array(some)).combine_chunks()
                found[some], score[some] = _best(self._interests(rows_of_some), vectors, self._lift(number, rows_of_some),
                                                 found.shape[1])
        ids = np.array(self.candidates["item_id"].to_pylist(), object)
        some_item = np.isfinite(score).any(1)
        return ([ids[own].tolist() if any_ else [] for own, any_ in zip(found, some_item, strict=True)],
                [own.tolist() if any_ else [] for own, any_ in zip(score, some_item, strict=True)])

    def _lift(self, fold: int, history: pa.Table) -> Tensor | float:
        """[B, n] what candidates gain for standing in the moveline."""
        if not self.generator:
            return 0.0
        walk = Jagged(torch.from_numpy(lengths(history, "moveline_item")))
        return self.generator.lift(fold, walk.pad(torch.from_numpy(flat(history, "moveline_item"))), self._item)

    def _interests(self, history: pa.Table) -> Tensor:
        """[B, K, d] what to look for; nan where a user has fewer than K."""
        if self.generator:
            return torch.from_numpy(self.generator.flow(history))
        count = lengths(history, "moveline_item")
        item, category = flat(history, "moveline_item"), flat(history, "moveline_category")
        user, from_end = np.repeat(np.arange(len(count)), count), np.repeat(np.cumsum(count), count) - np.arange(len(item))
        kept = np.flatnonzero((from_end <= LAST) & (item > 0))
        out = torch.full((len(count), LAST, self._vectors[0].shape[1]), torch.nan)
        out[user[kept], from_end[kept] - 1] = self._of_items(item[kept].astype(np.int64), category[kept].astype(np.int64))
        return out


def _best(interests: Tensor, vectors: Tensor, lift: Tensor | float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """([B, most] places among the vectors, [B, most] scores), the best first; nan for a user without interests."""
    missing = interests.isnan().any(2)
    # -1 is the least cosine there is: an interest that is not there makes no item better.
    score = torch.einsum("bkd,nd->bkn", interests.nan_to_num(), vectors).masked_fill(missing[:, :, None], -1.0).amax(1) + lift
    found = torch.where(missing.all(1)[:, None], torch.nan, score).double().numpy()
    place = np.argsort(-found, axis=1, kind="stable")[:, :most]
    return place, np.take_along_axis(found, place, 1)
