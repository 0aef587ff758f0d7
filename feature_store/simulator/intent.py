"""The latent intent of a user: a point on a sphere that drifts along a great circle and jumps now and then.

It is a function of (user, time) alone: no earlier day has to be replayed.
"""

import numpy as np

from feature_store.simulator.catalog import between, catalog_of, turned, unit
from feature_store.simulator.noise import Floats, Ints, Noise, draw
from feature_store.simulator.settings import SimulatorSettings

_SPREAD = 0.3
_SPEED_SPREAD = 0.35


def intents(settings: SimulatorSettings, user: Ints, time: Floats) -> Floats:
    """Intents of users at times.

    Parameters
    ----------
    user : [B]. time : [B, T] activity days (days since 1970 plus the share of the day's walk done), ascending, over at most a day.

    Returns
    -------
    [B, T, D] unit vectors.
    """
    noise = Noise(settings.seed)
    phase = noise.uniform("jump phase", user)
    span = time / settings.jump_days + phase[:, None]
    epoch = np.floor(span).astype(np.int64)
    first = epoch[:, 0]
    anchors = [_anchors(settings, noise, user, first + k) for k in (0, 1)]
    speeds = [_speeds(settings, noise, user, first + k) for k in (0, 1)]
    later = epoch > first[:, None]
    anchor = np.where(later[..., None], anchors[1][:, None], anchors[0][:, None])
    speed = np.where(later, speeds[1][:, None], speeds[0][:, None])
    return turned(anchor, speed * (span - epoch) * settings.jump_days)


def _anchors(settings: SimulatorSettings, noise: Noise, user: Ints, epoch: Ints) -> Floats:
    home = _near_a_category(settings, noise, user, np.zeros_like(epoch))
    return between(home, _near_a_category(settings, noise, user, epoch), np.full(len(user), min(1.0, settings.intent_drift)))


def _near_a_category(settings: SimulatorSettings, noise: Noise, user: Ints, epoch: Ints) -> Floats:
    catalog = catalog_of(settings)
    category = draw(np.broadcast_to(catalog.popularity, (len(user), settings.categories)), noise.uniform("anchor", user, epoch))
    around = noise.normal("around", user[:, None], epoch[:, None], np.arange(settings.dimension)) / np.sqrt(settings.dimension)
    return unit(catalog.centres[category] + _SPREAD * around)


def _speeds(settings: SimulatorSettings, noise: Noise, user: Ints, epoch: Ints) -> Floats:
    # Both directions: which one a user takes is known only from the order of what he did.
    direction = np.where(noise.uniform("direction", user, epoch) < 0.5, -1.0, 1.0)
    speed = np.exp(_SPEED_SPREAD * noise.normal("speed", user, epoch))
    return settings.intent_drift * np.radians(settings.drift_degrees) * direction * speed
