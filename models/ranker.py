"""A trained model that scores pages with raw ids, as the table `pages` holds them: what gate and batch scoring share."""

from pathlib import Path

import pyarrow as pa

from feature_store.contracts import PAGES
from feature_store.encoding import encode_pages
from feature_store.errors import ModelError
from feature_store.vocabulary import Vocabulary
from models.artifact import VOCABULARY, describe, load_artifact
from models.generator import beside
from models.metrics import Floats
from models.scoring import page_scores

LABELS = ("label_time", "viewed", "clicked", "ordered")
INPUT = tuple(c for c in PAGES.columns if c not in (*LABELS, "shown_time", "available_time", "trigger_source", "n_merged", "ds"))
"""Columns of the table `pages` that a model reads."""


class Ranker:
    """An artifact with all it carries: model, vocabulary, and the generator whose flow it reads, if any.

    Raises
    ------
    ModelError : the folder holds no complete artifact, or its model ranks no pages.
    """

    def __init__(self, folder: str | Path) -> None:
        about = describe(folder)
        if about["reads"] != "pages":
            raise ModelError(f"model {about['name']} reads {about['reads']}: it ranks no pages")
        self.model = load_artifact(folder)
        self.vocabulary = Vocabulary.load(Path(folder) / VOCABULARY)
        self.generator = beside(folder, self.vocabulary)

    def encoded(self, pages: pa.Table) -> pa.Table:
        """Rows of the table `pages` (columns `INPUT`, and labels if there are any) as indexes of the model's own vocabulary."""
        return encode_pages(pages, self.vocabulary)

    def scores(self, encoded: pa.Table) -> Floats:
        """[N] click probability of every shown item, page after page. Raises ModelError when one is not finite."""
        return page_scores(self.model, encoded, self.generator.flow(encoded) if self.generator else None)
