"""One day of a block of users: sessions, scenes and events, as arrays [B users, T steps]."""

from dataclasses import dataclass

import numpy as np

from feature_store.simulator import world
from feature_store.simulator.catalog import Catalog, between, catalog_of, unit
from feature_store.simulator.intent import intents
from feature_store.simulator.noise import Flags, Floats, Ints, Noise, draw
from feature_store.simulator.settings import SimulatorSettings

SECOND = 1_000_000
DAY_S = 86_400
STEP_S = 75
THEMES = 6
_FADE = 0.5
_PAUSE_SHARE = 0.5
_ITEM_FOCUS = 6.0
_CANDIDATES = 3


@dataclass(frozen=True)
class Walk:
    """What B users did on one day; T steps, of which `real` ones happened.

    Attributes
    ----------
    user : [B]. day : days since 1970. session : [T] 0 or 1. real : [B, T].
    time : [B, T] unix microseconds. scene, action, item, category : [B, T] indexes, -1 for none.
    intent : [B, T, D] at each step, before its event had its effect.
    """

    user: Ints
    day: int
    session: Ints
    real: Flags
    time: Ints
    scene: Ints
    action: Ints
    item: Ints
    category: Ints
    intent: Floats


def walk_of(settings: SimulatorSettings, user: Ints, day: int) -> Walk:
    """The walk of users [B] on a day. Depends on nothing but the settings, the users and the day."""
    noise = Noise(settings.seed)
    step = np.arange(2 * settings.steps)
    session = step // settings.steps
    lengths = _lengths(settings, noise, user, day)
    place = step % settings.steps
    real = place < lengths[:, session]
    drifting = intents(settings, user, day + _activity(session, place, lengths))
    scene, category, intent = _scenes(settings, noise, user, day, session, drifting)
    keys = (user[:, None], day, step)
    action = draw(world.ACTION_SHARES[scene], noise.uniform("action", *keys))
    bare = np.isin(action, world.NO_ITEM)
    item = np.where(bare, -1, pick_items(settings, noise, intent, category, *keys))
    return Walk(user, day, session, real, _times(settings, noise, user, day, session, place), scene, action, item,
                np.where((scene == world.SCENES.index("profile")) & bare, -1, category), intent)


def _lengths(settings: SimulatorSettings, noise: Noise, user: Ints, day: int) -> Ints:
    """[B, 2] steps of each session: uniform over half of `steps` to all of them; no second one without a first."""
    least = settings.steps // 2
    long = least + noise.integers("length", settings.steps - least + 1, user[:, None], day, np.arange(2))
    active = noise.uniform("active", user, day) < settings.active_share
    second = active & (noise.uniform("second", user, day) < settings.second_session)
    return np.where(np.stack([active, second], axis=1), long, 0)


def _activity(session: Ints, place: Ints, lengths: Ints) -> Floats:
    """[B, T] share of the day's drift done: a half of it in the sessions, a half in the pauses before them."""
    sessions = np.maximum(1, (lengths > 0).sum(1))[:, None]
    progress = np.minimum(1.0, place / np.maximum(1, lengths[:, session]))
    return np.minimum(session + _PAUSE_SHARE + (1 - _PAUSE_SHARE) * progress, sessions - 1e-9) / sessions


def _times(settings: SimulatorSettings, noise: Noise, user: Ints, day: int, session: Ints, place: Ints) -> Ints:
    """[B, T] unix microseconds. Sessions start in the first or the second half of the day; the last may cross midnight."""
    longest = 2 * STEP_S * settings.steps
    width = DAY_S // 2 - longest
    start = longest + (DAY_S // 2) * session + width * noise.uniform("start", user[:, None], day, session)
    jitter = 0.5 * STEP_S * noise.uniform("jitter", user[:, None], day, session * settings.steps + place)
    return np.asarray((day * DAY_S + start + STEP_S * place + jitter) * 1_000, dtype=np.int64) * 1_000


def _scenes(settings: SimulatorSettings, noise: Noise, user: Ints, day: int, session: Ints,
            drifting: Floats) -> tuple[Ints, Ints, Floats]:
    """Scenes and categories of the steps, and the intents that scene events have moved."""
    catalog = catalog_of(settings)
    taste = unit(noise.normal("scene", np.arange(len(world.SCENES))[:, None], np.arange(settings.dimension)))
    theme = _theme(settings, noise, user, day)
    shape = drifting.shape[:2]
    scene, category, intent = np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.empty_like(drifting)
    goal, pull = drifting[:, 0], np.zeros(len(user))
    for t in range(shape[1]):
        if t and session[t] != session[t - 1]:
            pull = pull * _FADE
        x = intent[:, t] = between(drifting[:, t], goal, pull)
        before = scene[:, t - 1] if t and session[t] == session[t - 1] else np.full(len(user), world.HOME)
        scene[:, t] = _next_scene(noise, user, day, t, x @ taste.T, before)
        wanted = draw(_odds(catalog, x, settings.event_focus), noise.uniform("category", user, day, t))
        category[:, t] = np.where(scene[:, t] == world.CAMPAIGN, theme, wanted)
        moves = np.isin(scene[:, t], (world.SEARCH, world.CAMPAIGN))
        goal = np.where(moves[:, None], catalog.centres[category[:, t]], goal)
        pull = np.where(moves, settings.scene_causality, pull)
    return scene, category, intent


def _theme(settings: SimulatorSettings, noise: Noise, user: Ints, day: int) -> Ints:
    """[B] category of the campaign that each user meets on this day, whatever he wants."""
    themes = noise.integers("themes", settings.categories, day, np.arange(THEMES))
    return np.asarray(themes[noise.integers("theme", THEMES, user, day)])


def _next_scene(noise: Noise, user: Ints, day: int, t: int, match: Floats, before: Ints) -> Ints:
    logits = world.SCENE_LOGITS + world.SCENE_TASTE * match
    logits[np.arange(len(user)), before] += world.STAY
    return draw(np.cumsum(np.exp(logits), axis=1), noise.uniform("scene", user, day, t))


def _odds(catalog: Catalog, x: Floats, focus: float) -> Floats:
    return np.cumsum(np.exp(focus * (x @ catalog.centres.T - 1)), axis=-1)


def pick_categories(settings: SimulatorSettings, noise: Noise, stream: str, x: Floats, *keys: Ints | int) -> Ints:
    """Categories near intents [N, D], one for each element of the broadcast `keys` [N, S]."""
    odds = _odds(catalog_of(settings), x, settings.event_focus)
    return draw(odds[:, None, :], noise.uniform(stream, *keys))


def pick_items(settings: SimulatorSettings, noise: Noise, x: Floats, category: Ints, *keys: Ints | int) -> Ints:
    """Items of categories [...]: of a few candidates, well-known ones more often, the one that fits the intents [..., D] best."""
    catalog = catalog_of(settings)
    best, score = np.zeros_like(category), np.full(category.shape, -np.inf)
    for c in range(_CANDIDATES):
        place = (settings.items_a_category * noise.uniform("candidate", *keys, c) ** 1.5).astype(np.int64)
        item = place * settings.categories + category
        fit = _ITEM_FOCUS * (catalog.vectors[item] * x).sum(-1) - np.log(-np.log(noise.uniform("fit", *keys, c) + 1e-12))
        best, score = np.where(fit > score, item, best), np.maximum(fit, score)
    return best
