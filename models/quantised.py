"""Embedding tables of int8 for serving, by TorchRec's own quantisation: a scale and an offset a row. Dense layers stay."""

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch.ao.quantization import PlaceholderObserver
from torchrec.modules.embedding_configs import QuantConfig
from torchrec.quant.embedding_modules import EmbeddingCollection

from models.artifact import load_artifact
from models.base import Model

WEIGHTS = "int8.safetensors"


def quantise_tables(model: Model) -> Model:
    """The model with int8 tables in place of its own, for the CPU. It scores as before and cannot be trained any more."""
    collection = model.tables.collection
    collection.qconfig = QuantConfig(activation=PlaceholderObserver.with_args(dtype=torch.float),
                                     weight=PlaceholderObserver.with_args(dtype=torch.int8))
    model.tables.collection = EmbeddingCollection.from_float(collection)
    return model.eval()


def table_bytes(model: Model) -> int:
    """Bytes of all embedding tables, with what their rows carry beside the values."""
    return sum(t.numel() * t.element_size() for name, t in model.state_dict().items() if name.startswith("tables."))


def save_quantised(model: Model, folder: str | Path) -> Path:
    """Write the tensors of a model with int8 tables beside its artifact; returns the file."""
    path = Path(folder) / WEIGHTS
    save_file({name: tensor.contiguous() for name, tensor in model.state_dict().items()}, path)
    return path


def load_quantised(folder: str | Path) -> Model:
    """The model with int8 tables of a folder that holds an artifact and what `save_quantised` wrote; raises as `load_artifact`."""
    model = quantise_tables(load_artifact(folder))
    model.load_state_dict(load_file(Path(folder) / WEIGHTS))
    return model
