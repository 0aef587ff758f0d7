"""The training loop: the same for one process and many, for pages and pairs, from scratch, warm, or after a stop."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor
from torch.optim import AdamW

from feature_store.errors import ModelError
from models.artifact import Weights
from models.base import Batch, Model
from models.checkpoint import Checkpoints
from models.distributed import Place, from_all_ranks, fused_state, gather, shard, spread, spread_fused
from models.losses import global_loss, weighted_auc
from models.progress import Meter, compared_by, progress_line


class Stream(Protocol):
    """Batches of one rank. The number of steps is the same on every rank; a batch has at least one page (or pair)."""

    def steps(self, epoch: int) -> int:
        """Steps of an epoch."""

    def epoch(self, number: int, start: int = 0) -> Iterator[Any]:
        """Batches of an epoch from its step `start` on."""


@dataclass
class Progress:
    """How far training is; all of it is in a checkpoint."""

    step: int = 0
    epoch: int = 0
    step_of_epoch: int = 0
    best_epoch: int = -1
    best_figure: float = math.inf
    losses: list[float] = field(default_factory=list)
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains one model on the ranks of the current process group.

    Parameters
    ----------
    model : unsharded; every rank passes an equal one. place : from `models.distributed.process_group`.
    train, validate : streams of this rank; without `validate` the last epoch is kept.
    checkpoints : folder of this run's checkpoints. start : whole weights to begin from (`grown_weights`), for a warm start.
    checkpoint_every : steps between checkpoints inside an epoch; there is one after every epoch in any case.
    """

    def __init__(self, model: Model, place: Place, train: Stream, validate: Stream | None, checkpoints: str | Path,
                 start: Weights | None = None, checkpoint_every: int = 2_000) -> None:
        self.model, self.place, self.train, self.validate = model, place, train, validate
        self.wrapped = shard(model, place)
        if start is not None:
            spread(self.wrapped, start.model)
            spread_fused(self.wrapped, start.fused)
        fused = set(self.wrapped.fused_optimizer.params)
        dense = [parameter for name, parameter in self.wrapped.named_parameters() if name not in fused]
        # A loop over some hundred small parameters in Python costs more than their arithmetic, which is the same.
        self.optimizer = AdamW(dense, lr=model.config.learning_rate, weight_decay=model.config.weight_decay, foreach=True)
        self.checkpoints = Checkpoints(checkpoints)
        self.checkpoint_every = checkpoint_every
        self.progress = Progress()
        self.best: Weights | None = None

    def weights(self) -> Weights:
        """Whole tensors of the best epoch so far, else the current ones; the same on every rank. Every rank must call it.

        The best epoch has the highest validation AUC or, where there are no labels, the lowest validation loss.
        """
        return self.best if self.best is not None else self._current()

    def fit(self, resume: bool = True, stop_after: int | None = None) -> list[dict[str, Any]]:
        """Train until the last epoch, until `patience` runs out, or for `stop_after` steps of this call; returns the history.

        Raises
        ------
        ModelError : the loss of a step is not finite. Raised before that step changes any weight.
        """
        if resume:
            self._resume()
        last = math.inf if stop_after is None else self.progress.step + stop_after
        while not self._finished():
            if not self._run_epoch(last):
                self._checkpoint()
                return self.progress.history
            self._end_epoch()
        return self.progress.history

    def _finished(self) -> bool:
        p, config = self.progress, self.model.config
        return p.epoch >= config.epochs or (p.best_epoch >= 0 and p.epoch - 1 - p.best_epoch > config.patience)

    def _resume(self) -> None:
        found = self.checkpoints.load(self.wrapped, self.optimizer)
        if found is not None:
            self.progress, self.best = Progress(**found[0]), found[1]

    def _checkpoint(self) -> None:
        self.checkpoints.save(self.wrapped, self.optimizer, vars(self.progress), self.best)

    def _run_epoch(self, last: float) -> bool:
        """Steps up to the end of the epoch (True) or up to step `last` (False)."""
        p = self.progress
        steps = self.train.steps(p.epoch)
        batches = self.train.epoch(p.epoch, p.step_of_epoch)
        self.wrapped.train()
        with progress_line(self.model.name, self.place.rank, steps) as show:
            meter = Meter()
            while p.step_of_epoch < steps:
                if p.step >= last:
                    return False
                waited = meter.waited(batches)
                if waited is None:
                    raise ModelError(f"the stream of epoch {p.epoch} ended after {p.step_of_epoch} of its {steps} steps")
                batch = waited.to(self.place.device)
                loss = self.step(batch)
                meter.did(batch, loss)
                show(p.epoch, p.step_of_epoch, meter)
                if p.step % self.checkpoint_every == 0 and p.step_of_epoch < steps:
                    self._checkpoint()
            mean = sum(p.losses[-steps:]) / max(len(p.losses[-steps:]), 1)
            p.history.append({"epoch": p.epoch, "steps": steps, "train_loss": mean, **meter.figures()})
        return True

    def step(self, batch: Batch) -> float:
        """One step on this rank's part of a global batch; returns the loss of the global batch."""
        p = self.progress
        self.model.set_step(p.step)
        self.optimizer.zero_grad(set_to_none=True)
        local, total = global_loss(self.model.terms(self.wrapped(batch), batch), self.place.world)
        value = float(total)
        if not math.isfinite(value):
            raise ModelError(f"model {self.model.name}: the loss of step {p.step} is {value}; no weight was changed by it. Look "
                             "for extreme values in the dense features, or lower learning_rate and table_learning_rate")
        torch.autograd.backward(local)
        self.optimizer.step()
        p.step += 1
        p.step_of_epoch += 1
        p.losses.append(value)
        return value

    def _end_epoch(self) -> None:
        p = self.progress
        if self.validate is not None:
            found = self.evaluate(self.validate)
            p.history[-1].update({f"validate_{name}": value for name, value in found.items()})
            figure = compared_by(p.history[-1])
            if figure < p.best_figure:
                p.best_figure, p.best_epoch, self.best = figure, p.epoch, self._current()
        p.epoch, p.step_of_epoch = p.epoch + 1, 0
        self._checkpoint()

    @torch.no_grad()
    def evaluate(self, stream: Stream) -> dict[str, float]:
        """The validation loss, AUC and the model's own measures over a stream (all ranks together), with weights.

        AUC is absent when there is one class only, or no logit.
        """
        self.wrapped.eval()
        sums: dict[str, Tensor] = {}
        parts, terms = [torch.zeros(3, 0)], None
        for batch in stream.epoch(0):
            moved = batch.to(self.place.device)
            output = self.wrapped(moved)
            terms = self.model.validation_terms(output, moved)
            for name, pair in {"loss": (terms.sums, terms.weights), **self.model.measures(output, moved)}.items():
                sums[name] = sums.get(name, 0.0) + torch.stack(pair).double()
            logits = self.model.logits(output)
            parts.append(torch.stack([logits, *self.model.targets(moved)]).cpu() if len(logits) else parts[0])
        self.wrapped.train()
        if terms is None:
            raise ModelError(f"model {self.model.name}: there is nothing to validate on; lengthen split.validate_hours")
        if self.place.world > 1:
            for own in sums.values():
                dist.all_reduce(own)
        auc = weighted_auc(*from_all_ranks(torch.cat(parts, 1)).double().numpy())
        loss = float(terms.over(*sums.pop("loss")))
        return {"loss": loss, **({} if auc is None else {"auc": auc}), **self.model.figures(sums)}

    def _current(self) -> Weights:
        return Weights(gather(self.wrapped.state_dict()), gather(fused_state(self.wrapped)))
