"""The items of a simulated shop: categories on rings of a sphere, items around their category's centre."""

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from feature_store.simulator.noise import Flags, Floats, Ints, Noise
from feature_store.simulator.settings import SimulatorSettings

BRANDS = 800
SHOPS = 1_500
SALE_SHARE = 0.01
ITEM_SPREAD = 0.35
SALE_FACTOR = 0.9


@dataclass(frozen=True)
class Catalog:
    """Latent and visible traits of C categories and I items; item i is of category i % C.

    Attributes
    ----------
    centres : [C, D] unit vectors. popularity : [C] cumulative share of the categories among new intents.
    vectors : [I, D] unit vectors. quality, price : [I]. brand, shop : [I].
    """

    centres: Floats
    popularity: Floats
    vectors: Floats
    quality: Floats
    price: Floats
    brand: Ints
    shop: Ints


@lru_cache(maxsize=4)
def catalog_of(settings: SimulatorSettings) -> Catalog:
    """The catalog of these settings."""
    noise = Noise(settings.seed)
    item = np.arange(settings.items)
    category = item % settings.categories
    centres = _centres(settings, noise)
    around = noise.normal("item", item[:, None], np.arange(settings.dimension)) / np.sqrt(settings.dimension)
    return Catalog(
        centres=centres,
        popularity=np.cumsum(noise.uniform("category popularity", np.arange(settings.categories)) + 0.5),
        vectors=unit(centres[category] + ITEM_SPREAD * around),
        quality=settings.quality_spread * noise.normal("quality", item),
        price=np.round(np.exp(3 + noise.normal("category price", category) + 0.4 * noise.normal("price", item)), 2) + 0.5,
        brand=noise.integers("brand", BRANDS, item),
        shop=noise.integers("shop", SHOPS, item),
    )


def _centres(settings: SimulatorSettings, noise: Noise) -> Floats:
    # A ring is one great circle: the orbit of a complex unit vector under multiplication by exp(i angle).
    rings = settings.categories // settings.ring
    start = unit(noise.normal("ring", np.arange(rings)[:, None], np.arange(settings.dimension)))
    angle = 2 * np.pi * np.arange(settings.ring) / settings.ring
    return turned(np.repeat(start, settings.ring, axis=0), np.tile(angle, rings))


def prices(settings: SimulatorSettings, item: Ints, day: Ints | int) -> Floats:
    """Price of items on days (days since 1970): a few items are on sale, each for one day."""
    price = catalog_of(settings).price[item]
    return np.where(on_sale(settings, item, day), np.round(SALE_FACTOR * price, 2), price)


def on_sale(settings: SimulatorSettings, item: Ints, day: Ints | int) -> Flags:
    """Whether items are on sale on days."""
    return Noise(settings.seed).uniform("sale", item, day) < SALE_SHARE


def unit(x: Floats) -> Floats:
    """Vectors [..., D] scaled to length one."""
    return np.asarray(x / np.sqrt((x * x).sum(-1, keepdims=True)))


def turned(x: Floats, angle: Floats) -> Floats:
    """Vectors [..., D], read as D/2 complex numbers, times exp(i angle [...]): a move along a great circle by `angle`."""
    return np.asarray((np.ascontiguousarray(x).view(np.complex128) * np.exp(1j * np.asarray(angle))[..., None]).view(np.float64))


def between(x: Floats, y: Floats, share: Floats) -> Floats:
    """The point [..., D] that lies `share` [...] of the way from unit vectors x to y on the great circle through them."""
    angle = np.arccos(np.clip((x * y).sum(-1), -1 + 1e-9, 1 - 1e-9))
    left, right = np.sin((1 - share) * angle) / np.sin(angle), np.sin(share * angle) / np.sin(angle)
    # Share 0 gives x to the bit, so that a strength of zero leaves no trace of y.
    return np.where((share == 0)[..., None], x, unit(left[..., None] * x + right[..., None] * y))
