"""The pages shown on the walks: triggers, slates, click probabilities and clicks, as arrays [P pages, S slots]."""

from dataclasses import dataclass

import numpy as np

from feature_store.simulator import world
from feature_store.simulator.catalog import catalog_of
from feature_store.simulator.intent import intents
from feature_store.simulator.noise import Flags, Floats, Ints, Noise, draw
from feature_store.simulator.settings import SimulatorSettings
from feature_store.simulator.walk import SECOND, Walk, pick_categories, pick_items

_BEFORE_EVENT_S = 12
_ORDER_SHARE = 0.06
_SURELY_SEEN = 0.5


@dataclass(frozen=True)
class Slates:
    """P pages of S slots, in order of their position.

    Attributes
    ----------
    user, step, shown_time (unix microseconds), scene, scenario, trigger : [P].
    relevant : [P] whether the trigger came from the intent.
    intent : [P, D]. item, click_time : [P, S]. viewed, clicked, ordered : [P, S].
    click_probability : [P, S], given that the item is viewed. view_probability : [S].
    """

    user: Ints
    step: Ints
    shown_time: Ints
    scene: Ints
    scenario: Ints
    trigger: Ints
    relevant: Flags
    intent: Floats
    item: Ints
    viewed: Flags
    clicked: Flags
    ordered: Flags
    click_time: Ints
    click_probability: Floats
    view_probability: Floats


def slates_of(settings: SimulatorSettings, walk: Walk) -> Slates:
    """The pages of a day's walks: each is shown shortly before the event of its step."""
    noise = Noise(settings.seed)
    steps = np.arange(walk.real.shape[1])
    share = noise.uniform("page", walk.user[:, None], walk.day, steps)
    has_scenario = walk.scene < len(world.SCENARIOS) // 2
    row, step = np.nonzero(walk.real & has_scenario & (share < settings.page_share / _SCENES_WITH_PAGES))
    user, x, scene = walk.user[row], walk.intent[row, step], walk.scene[row, step]
    scenario = 2 * scene + noise.integers("scenario", 2, user, walk.day, step)
    trigger, relevant = _triggers(settings, noise, walk, row, step)
    item = _items(settings, noise, walk.day, user, step, x, scenario, trigger)
    match = _match(settings, x, item)
    probability = _click_probability(settings, match, item, scenario)
    slot = np.arange(settings.page_size)
    keys = (user[:, None], walk.day, step[:, None])
    seen = view_probability(settings)
    viewed = noise.uniform("depth", *keys) < seen
    clicked = viewed & (noise.uniform("click", *keys, slot) < probability)
    shown = walk.time[row, step] - _BEFORE_EVENT_S * SECOND
    delay = (4_000 + 3_000 * slot + 2_000 * noise.uniform("click delay", *keys, slot)).astype(np.int64) * 1_000
    return Slates(user, step, shown, scene, scenario, trigger, relevant, x, item, viewed, clicked,
                  clicked & (noise.uniform("order", *keys, slot) < _ORDER_SHARE), shown[:, None] + delay, probability, seen)


_SCENES_WITH_PAGES = 0.95
"""About this share of the steps is in a scene that shows pages; only the mean number of pages depends on it."""


def view_probability(settings: SimulatorSettings) -> Floats:
    """[S] chance that a slot is viewed: the first half always, then falling; a viewed slot's upper neighbours are viewed too."""
    place = (np.arange(settings.page_size) + 1) / settings.page_size
    return np.clip(1 - (place - _SURELY_SEEN), 0, 1)


def _triggers(settings: SimulatorSettings, noise: Noise, walk: Walk, row: Ints, step: Ints) -> tuple[Ints, Flags]:
    """[P] the item of the last event before the page, else one of yesterday's intent; with the chosen share, any item."""
    user = walk.user[row]
    times = np.where(walk.real & (walk.item >= 0), np.arange(walk.real.shape[1]), -1)
    latest = np.maximum.accumulate(times, axis=1)
    found = np.where(step > 0, latest[row, np.maximum(step - 1, 0)], -1)
    yesterday = intents(settings, user, np.full((len(user), 1), float(walk.day)))[:, 0]
    keys = (user, walk.day, step)
    category = pick_categories(settings, noise, "trigger category", yesterday, user[:, None], walk.day, step[:, None])[:, 0]
    past = np.where(found >= 0, walk.item[row, np.maximum(found, 0)], pick_items(settings, noise, yesterday, category, *keys))
    relevant = noise.uniform("relevant", *keys) >= settings.irrelevant_triggers
    return np.where(relevant, past, noise.integers("any trigger", settings.items, *keys)), relevant


def _items(settings: SimulatorSettings, noise: Noise, day: int, user: Ints, step: Ints, x: Floats, scenario: Ints,
           trigger: Ints) -> Ints:
    """[P, S] items without repetition on a page: each slot draws a category, then the page's next item of it."""
    slot = np.arange(settings.page_size)
    page = (user[:, None], day, step[:, None])
    mix = np.array([[s.matched, s.matched + s.triggered, 1.0] for s in world.SCENARIOS])[scenario]
    source = draw(mix[:, None, :], noise.uniform("source", *page, slot))
    any_category = noise.integers("any category", settings.categories, *page, slot)
    near = pick_categories(settings, noise, "slot category", x, *page, slot)
    category = np.choose(source, [near, np.broadcast_to(trigger[:, None] % settings.categories, near.shape), any_category])
    # A stride without a common factor with the number of items meets each of them once before it repeats one.
    strides = np.array([s for s in range(1, settings.items_a_category) if np.gcd(s, settings.items_a_category) == 1])
    stride = strides[noise.integers("stride", len(strides), *page)]
    place = (noise.integers("first", settings.items_a_category, *page, category) + stride * slot) % settings.items_a_category
    return np.asarray(place * settings.categories + category)


def _match(settings: SimulatorSettings, x: Floats, item: Ints) -> Floats:
    near = (catalog_of(settings).vectors[item] * x[:, None, :]).sum(-1)
    return np.exp((near - 1) / settings.match_width)


def _click_probability(settings: SimulatorSettings, match: Floats, item: Ints, scenario: Ints) -> Floats:
    position = np.log(np.arange(settings.page_size) + 1.0)
    logit = (settings.base_logit + np.array([s.logit for s in world.SCENARIOS])[scenario][:, None] + settings.intent_weight * match
             + catalog_of(settings).quality[item] - settings.position_bias * position)
    return np.round(1 / (1 + np.exp(-logit)), 9)
