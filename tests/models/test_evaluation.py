import json

import numpy as np
import pyarrow as pa
import pytest

from models import metrics
from models.evaluation import Shown, evaluate_pages, evaluate_pairs, headline


def simulated(pages: int = 300, seed: int = 0) -> tuple[Shown, np.ndarray]:
    """Pages of five items in two scenarios, clicked with known probabilities."""
    draw = np.random.default_rng(seed)
    truth = draw.beta(1, 4, pages * 5)
    page = np.repeat(np.arange(pages), 5)
    scenario = np.where(page % 2, "search", "home").astype(object)
    clicked = (draw.random(len(page)) < truth).astype(float)
    weight = (draw.random(len(page)) < 0.9).astype(float)
    return Shown(np.arange(pages).astype(str), page, page // 3, scenario, clicked, weight), truth


def test_a_result_is_plain_json_and_agrees_with_the_metrics() -> None:
    shown, truth = simulated()
    noisy = np.clip(truth + 0.05, 0.01, 0.99)
    result = evaluate_pages(shown, noisy, {"base_rate": np.full(len(truth), 0.2), "recent": -truth}, truth)
    again = json.loads(json.dumps(result, allow_nan=False))
    own = again["metrics"]["model"]
    assert own["auc"]["value"] == pytest.approx(metrics.auc(shown.clicked, noisy, shown.weight))
    assert own["gauc"]["low"] < own["gauc"]["value"] < own["gauc"]["high"]
    assert again["rows"] == {"pages": 300, "users": 100, "items": int(shown.weight.sum()),
                             "clicks": int((shown.weight * shown.clicked).sum())}
    assert set(again["scenarios"]) == {"home", "search"}
    assert "log_loss" not in again["metrics"]["recent"], "a recency is no probability"
    assert again["truth"]["auc_truth"] == pytest.approx(again["metrics"]["model"]["auc"]["value"])
    assert 0 < again["truth"]["gap_closed"] < 1


def test_the_true_probabilities_close_the_whole_gap_and_the_base_rate_none() -> None:
    shown, truth = simulated()
    base = np.full(len(truth), 0.2)
    assert evaluate_pages(shown, truth, {"base_rate": base}, truth)["truth"]["gap_closed"] == 1.0
    assert evaluate_pages(shown, base, {"base_rate": base}, truth)["truth"]["gap_closed"] == 0.0


def test_a_paired_difference_is_sharper_than_two_intervals() -> None:
    shown, truth = simulated()
    near = truth + 0.01 * np.sin(np.arange(len(truth)))
    found = evaluate_pages(shown, truth, {"base_rate": near})
    apart = found["differences"]["base_rate"]["auc"]
    assert apart["error"] < 0.3 * found["metrics"]["model"]["auc"]["error"]
    assert apart["detectable"] == pytest.approx(2.8 * apart["error"])


def test_pages_without_a_click_give_null_and_no_nan() -> None:
    shown, truth = simulated()
    empty = Shown(shown.page_id, shown.page, shown.user, shown.scenario, np.zeros(len(truth)), shown.weight)
    result = evaluate_pages(empty, truth, {"base_rate": truth})
    json.dumps(result, allow_nan=False)
    assert result["metrics"]["model"]["auc"]["value"] is None
    assert "test.auc" not in headline(result) and "test.log_loss" in headline(result)


def test_shown_items_are_read_from_encoded_pages() -> None:
    table = pa.table({"page_id": ["a", "b", "c"], "user_id": ["u", "v", "u"], "scenario": [4, 5, 9],
                      "candidate_item": [[7, 8], [], [9]],
                      "clicked": pa.array([[1, 0], [], [1]], pa.list_(pa.float32())),
                      "weight": pa.array([[1, 1], [], [0]], pa.list_(pa.float32()))})
    shown = Shown.of(table, {4: "search", 5: "home"})
    assert shown.page.tolist() == [0, 0, 2] and shown.user.tolist() == [0, 0, 0]
    assert shown.scenario.tolist() == ["search", "search", "(unknown)"]
    assert shown.counts() == {"pages": 2, "users": 1, "items": 2, "clicks": 1}


def test_pairs_are_judged_by_weighted_auc_of_co_click_against_mono_click() -> None:
    score, kind = np.array([0.9, 0.2, 0.5, 0.1]), np.array([0, 2, 2, 1])
    weight, page = np.array([1.0, 3.0, 1.0, 5.0]), np.array([0, 0, 1, 1])
    found = evaluate_pairs(score, kind, weight, page, {"random": np.array([0.1, 0.2, 0.0, 0.0])})
    assert found["metrics"]["model"]["auc"]["value"] == 1.0
    assert found["metrics"]["random"]["auc"]["value"] == 0.25
    assert found["rows"] == {"pairs": 3, "pages": 2, "co_click": 1, "co_non_click": 1, "mono_click": 2}
