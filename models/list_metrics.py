"""How well a pre-ranker keeps, of a long list of candidates, what was clicked and what a better model would keep."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pyarrow as pa

from feature_store.collate import flat, lengths
from models import metrics
from models.bootstrap import Resampler
from models.metrics import Floats, Ints, Ratio

AT = (10, 100)
"""How many of a list are kept."""


@dataclass(frozen=True)
class Lists:
    """Candidates, list after list. page, user : [N] numbers. clicked : [N] float64."""

    page: Ints
    user: Ints
    clicked: Floats

    @classmethod
    def of(cls, table: pa.Table) -> "Lists":
        """From encoded pages, a list a page (`jobs.candidates`)."""
        count = lengths(table, "candidate_item")
        user = pd.factorize(table["user_id"].to_numpy())[0].astype(np.int64)
        return cls(np.repeat(np.arange(len(count)), count), np.repeat(user, count), flat(table, "clicked").astype(np.float64))

    def longer(self, k: int) -> np.ndarray:
        """[N] whether a candidate's list has more than k: of a shorter one everything is kept by any model."""
        return np.bincount(self.page, minlength=1)[self.page] > k

    def where(self, kept: np.ndarray) -> "Lists":
        """The candidates where `kept` is true."""
        return Lists(self.page[kept], self.user[kept], self.clicked[kept])


def top(k: int, page: Ints, score: Floats) -> Floats:
    """[N] 1.0 for the k best of each page, of equal ones the first, else 0.0.

    Examples
    --------
    >>> top(1, np.array([0, 0, 1]), np.array([0.1, 0.3, 0.2])).tolist()
    [0.0, 1.0, 1.0]
    """
    order = np.lexsort((-score, page))
    count = np.bincount(page, minlength=1)
    place = np.arange(len(page)) - np.repeat(np.cumsum(count) - count, count)
    found = np.zeros(len(page))
    found[order] = place < k
    return found


def hits(lists: Lists, score: Floats, k: int) -> Ratio:
    """HitRate@k: the share of a list's clicks among its k best, a part a list; lists of at most k are left out."""
    long = lists.longer(k)
    own = lists.where(long)
    return metrics.recall_parts(k, own.page, own.clicked, score[long])


def kept(lists: Lists, score: Floats, better: Floats, k: int) -> Ratio:
    """Share of the k best by another model's score that are among the k best by this one, as `hits`."""
    long = lists.longer(k)
    own = lists.where(long)
    return metrics.recall_parts(k, own.page, top(k, own.page, better[long]), score[long])


def judged(lists: Lists, score: Floats, teacher: Floats | None = None) -> dict[str, tuple[float, Floats]]:
    """By name the value, and its values in the resamples of users: `hit_10`, ... and, with a teacher's scores, `teacher_10`, ..."""
    found: dict[str, tuple[float, Floats]] = {}
    for k in AT:
        resampler = Resampler(lists.user[lists.longer(k)])
        parts = {f"hit_{k}": hits(lists, score, k)} | ({} if teacher is None else {f"teacher_{k}": kept(lists, score, teacher, k)})
        found |= {name: (own.value, resampler.ratio(own)) for name, own in parts.items()}
    return found
