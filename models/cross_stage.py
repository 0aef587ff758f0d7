"""Cross-stage weights: a ranker begins with what its generator learned (arXiv 2510.11317; what is copied is a reconstruction)."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from feature_store.errors import ModelError
from models.artifact import Weights, describe, load_weights
from models.base import Model
from models.embeddings import grown_rows

_TABLE = "tables.collection.embeddings."
_SHARED = (_TABLE, "token.", "visit.", "visits.", "target.")
"""Tables, the layers of tokens, visits and targets, and the encoder of the visits: both models call them by the same names."""

_ALIKE = ("dim", "heads", "visit_layers")


def begun_from(generator: str | Path, model: Model) -> tuple[Weights, list[str]]:
    """Weights for a fresh model of pages: the generator's where both have a tensor, the model's own elsewhere.

    Rows of a table are rows of the vocabulary; a table that has grown since keeps its fresh rows beyond the generator's.
    A departure from the recipe, which trains copied tables at a tenth of the learning rate for one epoch: the fused optimiser of
    the tables has one rate. Its state is copied instead, and Adagrad's steps are the smaller the more a row has been trained.
    Tables that the generator lacks start without a state.

    Parameters
    ----------
    generator : folder of its artifact.

    Returns
    -------
    Weights to start a `models.trainer.Trainer` with, and the sorted names of the copied tensors.

    Raises
    ------
    ModelError : the two differ in dim, heads or visit_layers, or a table has shrunk.
    """
    config, own = describe(generator)["config"], model.config.model_dump()
    for name in _ALIKE:
        if config[name] != own[name]:
            raise ModelError(f"model {model.name} has {name} {own[name]} and its generator {config[name]}: give both the same")
    old = load_weights(generator)
    fresh = {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}
    copied = sorted(name for name in fresh if name in old.model and name.startswith(_SHARED))
    begun = {name: grown_rows(old.model[name], fresh[name]) for name in copied}
    return Weights({**fresh, **begun}, _states(old.fused, fresh)), copied


def _states(old: Mapping[str, Tensor], fresh: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Optimiser states of all tables of a model (see `models.distributed.fused_state`), the generator's grown."""
    kinds = {name.rpartition(".")[2] for name in old}
    rows = {name: len(tensor) for name, tensor in fresh.items() if name.startswith(_TABLE)}
    states = {f"{name}/{name.removeprefix(_TABLE).partition('.')[0]}.{kind}": torch.zeros(n)
              for name, n in rows.items() for kind in kinds}
    return {name: grown_rows(old[name], state) if name in old else state for name, state in states.items()}
