"""Processes and sharding: the process group, the planner's limits, and tables gathered from or spread over ranks."""

import ctypes
import datetime
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import Tensor, nn
from torchrec.distributed.embedding import EmbeddingCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, Topology
from torchrec.distributed.planner.types import ParameterConstraints
from torchrec.optim.apply_optimizer_in_backward import apply_optimizer_in_backward
from torchrec.optim.rowwise_adagrad import RowWiseAdagrad

from feature_store.errors import ModelError
from models.base import Model, ModelConfig

_TIMEOUT = datetime.timedelta(minutes=10)
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
"""Numbers of glibc's mallopt."""


@dataclass(frozen=True)
class Place:
    """Where this process runs: its rank of `world`, and its device."""

    rank: int
    world: int
    device: torch.device


@contextmanager
def process_group() -> Iterator[Place]:
    """A process group for the duration: the launcher's (RANK, WORLD_SIZE), else one process alone. nccl with a GPU, else gloo."""
    _keep_freed_memory()
    if dist.is_initialized():
        yield Place(dist.get_rank(), dist.get_world_size(), _device())
        return
    device = _device()
    backend = "nccl" if device.type == "cuda" else "gloo"
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group(backend, timeout=_TIMEOUT)
    else:
        dist.init_process_group(backend, store=torch._C._distributed_c10d.HashStore(), rank=0, world_size=1)
    try:
        yield Place(dist.get_rank(), dist.get_world_size(), device)
    finally:
        dist.destroy_process_group()


def _keep_freed_memory() -> None:
    """Let the C library keep up to 512 MB that a step has freed: the next step wants as much, and each page of it that was given
    back to the system costs a page fault. Other libraries than glibc have no such setting."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, 1 << 25)
        mallopt(_M_TRIM_THRESHOLD, 1 << 29)


def _device() -> torch.device:
    if not torch.cuda.is_available():
        return torch.device("cpu")
    device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    torch.cuda.set_device(device)
    return device


def shard(model: Model, place: Place) -> DistributedModelParallel:
    """The model with its tables sharded by the planner and their optimiser (row-wise Adagrad) fused into the backward pass.

    Tables are never replicated: a data-parallel table has no fused optimiser and its checkpoint cannot change the number of ranks.
    """
    apply_optimizer_in_backward(RowWiseAdagrad, model.tables.parameters(), _table_optimizer(model.config))
    local = int(os.environ.get("LOCAL_WORLD_SIZE", place.world))
    planner = EmbeddingShardingPlanner(
        topology=Topology(world_size=place.world, local_world_size=local, compute_device=place.device.type),
        constraints={table: ParameterConstraints(sharding_types=_shardings(place.world)) for table in model.rows})
    sharders: Any = [EmbeddingCollectionSharder()]
    plan = planner.collective_plan(model, sharders, dist.group.WORLD)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    # One process alone has nobody to average dense gradients with.
    wrapped = DistributedModelParallel(model.to(place.device), device=place.device, plan=plan, sharders=sharders,
                                       init_data_parallel=place.world > 1)
    spread(wrapped, start)
    return wrapped


def _shardings(world: int) -> list[str]:
    """How the planner may shard a table. One process has nothing to part by rows; it would cost it copies of all vectors."""
    return ["table_wise"] if world == 1 else ["row_wise", "table_wise"]


def _table_optimizer(config: ModelConfig) -> dict[str, Any]:
    """Settings of the fused optimiser. With decay, the gradient of a row that a batch touches has `table_decay` * row added.

    That is the regularisation of DIN (arXiv 1706.06978, section 5.1) but for its division by how often an item occurs.
    """
    given: dict[str, Any] = {"lr": config.table_learning_rate, "eps": 1e-8}
    if config.table_decay:
        given |= {"weight_decay": config.table_decay, "weight_decay_mode": WeightDecayMode.L2}  # FBGEMM's default is to ignore it
    return given


def gather(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Whole tensors on the CPU of every rank, from a state dict with sharded ones. Every rank must call it."""
    return {name: _whole(value) for name, value in sorted(state.items())}


def _whole(value: Any) -> Tensor:
    if not hasattr(value, "local_shards"):
        return value.detach().cpu().clone()
    whole = torch.zeros(*value.size(), dtype=value.dtype)
    for tensor, place in _shards(value):
        whole[place] = tensor.detach().cpu()
    if dist.get_world_size() > 1:
        # Every element lives on one rank and is zero elsewhere, so the sum is exact.
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        on_device = whole.to(device)
        dist.all_reduce(on_device)
        whole = on_device.cpu()
    return whole


def _shards(value: Any) -> Iterator[tuple[Tensor, tuple[slice, ...]]]:
    for piece in value.local_shards():
        sizes = zip(piece.metadata.shard_offsets, piece.metadata.shard_sizes, strict=True)
        yield piece.tensor, tuple(slice(start, start + size) for start, size in sizes)


def from_all_ranks(columns: Tensor) -> Tensor:
    """[k, n] of every rank, on the CPU -> [k, sum of n] on each, in rank order. Every rank must call it."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return columns
    parts: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(parts, columns.numpy())
    return torch.from_numpy(np.concatenate(parts, 1))


def fused_state(wrapped: DistributedModelParallel) -> dict[str, Any]:
    """The state of the tables' fused optimiser, flat: `<table parameter>/<state>` -> (sharded) tensor."""
    state = wrapped.fused_optimizer.state_dict()["state"]
    return {f"{name}/{key}": value for name, values in state.items() for key, value in values.items()}


@torch.no_grad()
def spread(wrapped: nn.Module, whole: Mapping[str, Tensor]) -> None:
    """Copy whole tensors into a (sharded) module."""
    _fill(wrapped.state_dict(), whole)


@torch.no_grad()
def spread_fused(wrapped: DistributedModelParallel, whole: Mapping[str, Tensor]) -> None:
    """Copy whole optimiser states (see `fused_state`) into the fused optimiser."""
    _fill(fused_state(wrapped), whole)


def _fill(state: Mapping[str, Any], whole: Mapping[str, Tensor]) -> None:
    for name, value in state.items():
        if name not in whole:
            raise ModelError(f"{name} is missing among the weights to start from")
        if hasattr(value, "local_shards"):
            for tensor, place in _shards(value):
                tensor.copy_(whole[name][place])
        else:
            value.copy_(whole[name])
