"""Models by name."""

from feature_store.errors import ModelError
from models.amen import Amen
from models.base import Model
from models.ccn import Ccn
from models.din import Din
from models.intent import Dei2n, Dihn
from models.item2vec import Item2vec
from models.nif import Nif
from models.tarq import Tarq
from models.towers import TargetAttentionNet, TwoTower

CATALOG: dict[str, type[Model]] = {
    model.name: model for model in (Amen, Ccn, Dei2n, Dihn, Din, Item2vec, Nif, Tarq, TargetAttentionNet, TwoTower)}
"""Every model a recipe may name."""


def model_class(name: str) -> type[Model]:
    """The class of a model.

    Raises
    ------
    ModelError : no model has this name; lists those there are.
    """
    if name not in CATALOG:
        raise ModelError(f"no model is called {name!r}; the models are {', '.join(sorted(CATALOG))}")
    return CATALOG[name]
