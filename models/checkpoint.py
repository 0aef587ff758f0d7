"""Training checkpoints: torch.distributed.checkpoint, so that they can be resumed on another number of ranks. Private files."""

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.optim import Optimizer
from torchrec.distributed.model_parallel import DistributedModelParallel

from feature_store.errors import ModelError
from models.artifact import Weights
from models.base import Model
from models.distributed import fused_state

_PROGRESS = "progress.json"


class Checkpoints:
    """The checkpoints of one training run: a folder a step, the newest complete one counts, older ones are deleted.

    Parameters
    ----------
    folder : on a file system that every rank sees.
    """

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder)

    def newest(self) -> Path | None:
        """The newest complete checkpoint."""
        return max((p.parent for p in self.folder.glob(f"step-*/{_PROGRESS}")), default=None, key=lambda p: p.name)

    def save(self, wrapped: DistributedModelParallel, dense: Optimizer, progress: dict[str, Any], best: Weights | None) -> Path:
        """Write a checkpoint; every rank must call it. It becomes visible in one step, when all of it is written."""
        final = self.folder / f"step-{progress['step']:010d}"
        if final.is_dir():
            return final
        partial = self.folder / f"partial-{final.name}"
        if dist.get_rank() == 0:
            shutil.rmtree(partial, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            partial.mkdir(mode=0o700)
        dist.barrier()
        try:
            save(_state(wrapped, dense), checkpoint_id=str(partial / "tensors"))
        except CheckpointException as error:
            # No Exception for Python, so that nothing that waits for one would see it: what is behind it is raised.
            reason, _ = next(iter(error.failures.values()))
            raise reason from None
        if dist.get_rank() == 0:
            if best is not None:
                save_file(best.model, partial / "best.safetensors")
                save_file(best.fused, partial / "best_optimiser.safetensors")
            (partial / _PROGRESS).write_text(json.dumps(progress))
            partial.rename(final)
            for old in self.folder.glob("step-*"):
                if old.name < final.name:
                    shutil.rmtree(old)
        dist.barrier()
        return final

    def load(self, wrapped: DistributedModelParallel, dense: Optimizer) -> tuple[dict[str, Any], Weights | None] | None:
        """Restore the newest checkpoint into model and optimisers; returns its progress and best weights, None without one.

        Raises ModelError when somebody else could have written it.
        """
        newest = self.newest()
        if newest is None:
            return None
        refuse_foreign(newest)
        state = _state(wrapped, dense)
        load(state, checkpoint_id=str(newest / "tensors"))
        _restore_dense(wrapped, dense, state["dense"])
        wrapped.load_state_dict(state["model"])
        best = None
        if (newest / "best.safetensors").is_file():
            best = Weights(load_file(newest / "best.safetensors"), load_file(newest / "best_optimiser.safetensors"))
        return json.loads((newest / _PROGRESS).read_text()), best

    def clear(self) -> None:
        """Delete all checkpoints (rank 0)."""
        if dist.get_rank() == 0:
            shutil.rmtree(self.folder, ignore_errors=True)


def refuse_foreign(folder: Path) -> None:
    """Raise ModelError when a checkpoint belongs to, or can be written by, somebody else: torch unpickles a part of it."""
    found = folder.stat()
    if found.st_uid != os.getuid() or found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise ModelError(f"{folder}: a checkpoint that somebody else owns or may write is not read, since reading it can run code; "
                         "delete it, and training begins anew")


def unsharded(folder: str | Path, model: Model) -> dict[str, Tensor]:
    """Whole tensors of the newest checkpoint of a run, however many ranks wrote it, without a process group.

    Those of the best epoch so far, as `Trainer.weights` has them, else of the last step. model : unsharded, gives names and shapes.

    Raises
    ------
    ModelError : there is no checkpoint, or it is of another model.
    """
    newest = Checkpoints(folder).newest()
    if newest is None:
        raise ModelError(f"{folder}: no checkpoint here; run `moveline train`, or export a registered version")
    refuse_foreign(newest)
    if (newest / "best.safetensors").is_file():
        return load_file(newest / "best.safetensors")
    state = {"model": {name: torch.zeros_like(tensor) for name, tensor in model.state_dict().items()}}
    try:
        load(state, checkpoint_id=str(newest / "tensors"), no_dist=True)
    except (RuntimeError, CheckpointException) as error:
        raise ModelError(f"{newest}: no checkpoint of this model {model.name}: {str(error).splitlines()[0]}") from error
    return state["model"]


def _state(wrapped: DistributedModelParallel, dense: Optimizer) -> dict[str, Any]:
    return {"model": wrapped.state_dict(), "fused": fused_state(wrapped), "dense": _dense_state(wrapped, dense)}


def _dense_state(wrapped: DistributedModelParallel, dense: Optimizer) -> dict[str, Tensor]:
    known = {id(p) for group in dense.param_groups for p in group["params"]}
    flat = {}
    for name, parameter in wrapped.named_parameters():
        if id(parameter) in known:
            state = dense.state.get(parameter) or {"step": torch.zeros(()), "exp_avg": torch.zeros_like(parameter),
                                                   "exp_avg_sq": torch.zeros_like(parameter)}
            flat.update({f"{name}/{key}": value for key, value in state.items()})
    return flat


def _restore_dense(wrapped: DistributedModelParallel, dense: Optimizer, flat: dict[str, Tensor]) -> None:
    for name, parameter in wrapped.named_parameters():
        keys = [key for key in ("step", "exp_avg", "exp_avg_sq") if f"{name}/{key}" in flat]
        if keys:
            dense.state[parameter] = {key: flat[f"{name}/{key}"] for key in keys}
