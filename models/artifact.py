"""What a trained model is outside of training: weights as safetensors and a description as JSON. Loading never unpickles."""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torchrec
from safetensors.torch import load_file, save_file
from torch import Tensor

from feature_store.errors import ModelError
from models.base import Model
from models.catalog import model_class
from models.embeddings import grown_rows

WEIGHTS = "weights.safetensors"
OPTIMISER = "optimiser.safetensors"
DESCRIPTION = "model.json"
VOCABULARY = "vocabulary.parquet"
_TABLE = "tables.collection.embeddings."


@dataclass(frozen=True)
class Weights:
    """All tensors of a model, whole: `model` by parameter, `fused` the optimiser state of its tables (see `fused_state`)."""

    model: dict[str, Tensor]
    fused: dict[str, Tensor]


def save_artifact(folder: str | Path, model: Model, weights: Weights, vocabulary: str | Path | None = None,
                  extra: Mapping[str, Any] | None = None) -> Path:
    """Write a model into a folder: weights, the state of its tables' optimiser, description, and a copy of its vocabulary.

    Parameters
    ----------
    model : gives name, settings and rows; its own weights are not used. weights : see `Trainer.weights`.
    extra : further plain values for model.json, below the key `extra`.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(_plain(weights.model), folder / WEIGHTS)
    save_file(_plain(weights.fused), folder / OPTIMISER)
    if vocabulary is not None:
        shutil.copyfile(vocabulary, folder / VOCABULARY)
    description = {"name": model.name, "reads": model.reads, "config": model.config.model_dump(mode="json"), "rows": model.rows,
                   "dim": model.config.dim, "torch": torch.__version__, "torchrec": torchrec.__version__,
                   "extra": dict(extra or {})}
    # Written last: a folder with a description is complete.
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1, sort_keys=True))
    return folder


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def describe(folder: str | Path) -> dict[str, Any]:
    """The content of model.json. Raises ModelError when the folder holds no complete artifact."""
    path = Path(folder) / DESCRIPTION
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"{folder}: no model here ({DESCRIPTION} is missing or damaged); run `moveline train`") from error


def load_weights(folder: str | Path) -> Weights:
    """All tensors of an artifact. Raises ModelError when a file is missing or damaged."""
    try:
        return Weights(load_file(Path(folder) / WEIGHTS), load_file(Path(folder) / OPTIMISER))
    except Exception as error:  # safetensors raises its own type, and OSError
        reason = str(error).splitlines()[0]
        raise ModelError(f"{folder}: weights cannot be read, the folder is incomplete or damaged: {reason}") from error


def load_artifact(folder: str | Path) -> Model:
    """The unsharded model on the CPU, in evaluation mode; it takes a batch and gives the scores it gave when it was trained.

    Raises
    ------
    ModelError : the folder holds no complete artifact, or its tensors do not fit the model it names.
    """
    described = describe(folder)
    model = model_class(described["name"]).build(described["config"], described["rows"])
    try:
        model.load_state_dict(load_weights(folder).model)
    except RuntimeError as error:
        raise ModelError(f"{folder}: weights do not fit model {described['name']}: {' '.join(str(error).split())}") from error
    return model.eval()


def grown_weights(old: Weights, model: Model) -> Weights:
    """The weights of an earlier version for a model whose tables may be larger: old rows and their optimiser state are copied,
    new rows start as `model` has them, dense layers are taken over.

    Raises
    ------
    ModelError : a dense layer has another shape, or a table is smaller.
    """
    fresh = model.state_dict()
    if set(fresh) != set(old.model):
        others = ", ".join(sorted(set(fresh) ^ set(old.model)))
        raise ModelError(f"the model to start from has other layers than {model.name}: {others}")
    weights = {name: grown_rows(tensor, fresh[name]) if name.startswith(_TABLE) else _same_shape(name, tensor, fresh[name])
               for name, tensor in old.model.items()}
    fused = {}
    for name, state in old.fused.items():
        rows = fresh[name.split("/")[0]].shape[0] if state.dim() else 0
        fused[name] = grown_rows(state, state.new_zeros(rows, *state.shape[1:])) if state.dim() else state
    return Weights(weights, fused)


def _same_shape(name: str, old: Tensor, fresh: Tensor) -> Tensor:
    if old.shape != fresh.shape:
        raise ModelError(f"layer {name} had shape {tuple(old.shape)} and now has {tuple(fresh.shape)}: start from scratch, "
                         "or keep its settings")
    return old
