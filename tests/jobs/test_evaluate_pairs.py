"""Item vectors are judged beside both trivial baselines."""

from pathlib import Path

import pytest

from jobs.evaluate import _pairs
from models.catalog import model_class
from models.evaluation import headline
from tests.models.encoded import SIZES, encoded_set


def test_pairs_are_judged_beside_popularity_and_a_constant_score(tmp_path: Path) -> None:
    model = model_class("item2vec").build({}, SIZES).eval()
    train, test = encoded_set(tmp_path / "train", "pairs", 400), encoded_set(tmp_path / "test", "pairs", 200, seed=1)
    result = _pairs(model, train, test)
    assert set(result["metrics"]) == {"model", "popularity", "base_rate"}
    assert [result["metrics"]["base_rate"]["auc"][part] for part in ("value", "low", "high")] == pytest.approx([0.5] * 3)
    own = result["metrics"]["model"]["auc"]["value"]
    assert headline(result)["test.over_base_rate.auc"] == pytest.approx(own - 0.5)
