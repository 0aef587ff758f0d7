"""The scenes, actions and scenarios of the simulated app, and how often each occurs."""

from dataclasses import dataclass

import numpy as np

SCENES = ("home", "search", "category", "detail", "cart", "campaign", "content", "profile")
ACTIONS = ("view", "click", "search", "visit", "favourite", "cart", "buy")
CLICK, BUY = ACTIONS.index("click"), ACTIONS.index("buy")
SEARCH, CAMPAIGN, CART, HOME = SCENES.index("search"), SCENES.index("campaign"), SCENES.index("cart"), SCENES.index("home")
NO_ITEM = (ACTIONS.index("search"), ACTIONS.index("visit"))

SCENE_LOGITS = np.array([0.9, 0.3, 0.5, 0.6, -0.4, -0.2, 0.0, -1.0])
"""How often a walk enters each scene, before the intent has its say."""

STAY = 1.2
"""Added to the logit of the scene the user is in."""

SCENE_TASTE = 1.5
"""How strongly the intent chooses the scene: factor on the match of an intent and a scene's direction."""

_ACTION_SHARES = {
    "home": {"view": 0.7, "click": 0.3},
    "search": {"search": 0.5, "click": 0.5},
    "category": {"view": 0.6, "click": 0.4},
    "detail": {"view": 0.55, "click": 0.2, "favourite": 0.1, "cart": 0.15},
    "cart": {"view": 0.4, "cart": 0.35, "buy": 0.25},
    "campaign": {"visit": 0.5, "click": 0.5},
    "content": {"view": 0.8, "click": 0.2},
    "profile": {"visit": 0.7, "view": 0.3},
}
ACTION_SHARES = np.cumsum([[_ACTION_SHARES[s].get(a, 0.0) for a in ACTIONS] for s in SCENES], axis=1)
"""[scenes, actions], cumulative."""


@dataclass(frozen=True)
class Scenario:
    """A kind of page: what its slots are filled from, and how click-prone it is.

    Attributes
    ----------
    matched, triggered : share of slots filled near the intent, and from the trigger's category; the rest are any items.
    logit : added to every click's logit.
    """

    name: str
    matched: float
    triggered: float
    logit: float


# Two scenarios a scene, in the order of SCENES without the profile.
SCENARIOS = (
    Scenario("guess_you_like", 0.40, 0.20, 0.0), Scenario("home_channel", 0.30, 0.30, -0.1),
    Scenario("search_results", 0.45, 0.15, 0.2), Scenario("search_related", 0.30, 0.35, 0.0),
    Scenario("category_feed", 0.35, 0.25, 0.0), Scenario("category_top", 0.25, 0.25, 0.1),
    Scenario("detail_similar", 0.25, 0.45, 0.1), Scenario("detail_together", 0.35, 0.25, 0.0),
    Scenario("cart_addons", 0.30, 0.30, 0.1), Scenario("cart_repurchase", 0.35, 0.20, 0.2),
    Scenario("campaign_hall", 0.25, 0.20, -0.2), Scenario("campaign_mini_app", 0.30, 0.40, 0.0),
    Scenario("content_feed", 0.30, 0.25, -0.2), Scenario("live", 0.30, 0.35, -0.1),
)
