"""Limits of the gate on made-up scores, whose better one is known."""

import numpy as np
import pytest

from feature_store.recipe import Gate
from models.bootstrap import Resampler, estimate
from models.evaluation import Shown
from models.gate import judge
from models.metrics import Floats, gauc_parts

USERS, PAGES, ITEMS = 120, 3, 6
LIMITS = Gate(mode="enabled", min_users=50, max_gauc_loss=0.02, max_ndcg_loss=0.02)


def pages(seed: int = 0) -> tuple[Shown, Floats]:
    """Items of some pages, and the probability by which each was clicked."""
    draw, rows = np.random.default_rng(seed), USERS * PAGES * ITEMS
    truth = draw.beta(1, 3, rows)
    page = np.arange(rows) // ITEMS
    user = page // PAGES
    clicked = (draw.random(rows) < truth).astype(float)
    return Shown(np.arange(page.max() + 1), page, user, np.full(rows, "feed", object), clicked, np.ones(rows)), truth


def noisy(truth: Floats, much: float, seed: int = 1) -> Floats:
    draw = np.random.default_rng(seed)
    return np.clip(truth * (1 - much) + draw.permutation(truth) * much, 0, 1)


def test_the_same_model_passes_and_the_truth_passes_against_noise() -> None:
    shown, truth = pages()
    same = judge(shown, truth, truth, LIMITS)
    assert same.passed and same.numbers["gauc.difference"] == same.numbers["gauc.difference.low"] == 0.0
    better = judge(shown, truth, noisy(truth, 0.6), LIMITS)
    assert better.passed and better.numbers["gauc.difference.low"] > 0 and better.numbers["users"] == USERS


def test_a_worse_model_is_refused_with_its_interval() -> None:
    shown, truth = pages()
    worse = judge(shown, noisy(truth, 0.6), truth, LIMITS)
    assert not worse.passed and worse.reasons[0].startswith("gauc may lose more than 0.02: -0.")
    assert worse.reasons[1].startswith("ndcg_10 may lose more than 0.02: -0.")
    low, value, high = (worse.numbers[f"gauc.difference{end}"] for end in (".low", "", ".high"))
    assert low < value < high < 0


def test_users_are_drawn_whole_and_both_models_alike() -> None:
    """The difference of a model and a slightly changed copy is known far better than each of them."""
    shown, truth = pages()
    found = judge(shown, noisy(truth, 0.02), truth, LIMITS).numbers
    parts = gauc_parts(shown.user, shown.clicked, truth, shown.weight)
    alone = estimate(parts.value, Resampler(shown.user).ratio(parts))
    assert found["gauc.difference.high"] - found["gauc.difference.low"] < (alone.high - alone.low) / 3


@pytest.mark.parametrize(("score", "says"), [
    (lambda truth: np.clip(truth * 2, 0, 1), "times the clicks there were, 25% off is the limit"),
    (lambda truth: truth.mean() + 0.2 * (truth - truth.mean()), "calibration error is 0."),
])
def test_a_model_that_promises_too_much_or_too_evenly_is_refused(score: object, says: str) -> None:
    shown, truth = pages()
    found = judge(shown, score(truth), truth, LIMITS)  # type: ignore[operator]
    assert any(says in why for why in found.reasons), found


def test_a_first_version_needs_no_champion_but_must_rank() -> None:
    shown, truth = pages()
    first = judge(shown, truth, None, LIMITS)
    assert first.passed and "gauc.difference" not in first.numbers
    refused = judge(shown, 2 * truth.mean() - np.clip(truth, 0, 2 * truth.mean()), None, LIMITS)
    assert any(why.startswith("gauc is 0.") and why.endswith("a first version needs 0.5") for why in refused.reasons)


def test_what_cannot_be_compared_is_refused() -> None:
    shown, truth = pages()
    silent = Shown(shown.page_id, shown.page, shown.user, shown.scenario, np.zeros_like(truth), shown.weight)
    for champion in (None, truth):
        assert not judge(silent, truth, champion, LIMITS).passed
    assert "gauc is not defined on these pages" in judge(silent, truth, truth, LIMITS).reasons
    few = judge(shown, truth, truth, LIMITS.model_copy(update={"min_users": 121}))
    assert few.reasons == ("120 users in the pages compared, 121 are needed",)
    assert all(np.isfinite(list(judge(silent, truth, truth, LIMITS).numbers.values())))
