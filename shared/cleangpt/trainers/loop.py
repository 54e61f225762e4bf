"""The training loop. Trainers differ only in their callbacks and objective.

Random numbers from the global generators of torch, numpy and Python are a function of seed, step and process, so a
resumed training draws the same numbers as an uninterrupted one.
"""

import math
import time
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from cleangpt.data.batches import TEXT, Batch, EpochBatches
from cleangpt.errors import EmptyDataError, TrainingDivergedError
from cleangpt.trainers.callbacks import Callback, Run
from cleangpt.trainers.causal_logits import try_out
from cleangpt.trainers.checkpoint import (
    Checkpoints,
    Made,
    check_finite,
    restore_state,
    save_best,
    save_state,
)
from cleangpt.trainers.differences import of_validation
from cleangpt.trainers.digests import START_WEIGHTS, digest_of_weights
from cleangpt.trainers.feed import Feed, FeedState
from cleangpt.trainers.folder_lock import locked
from cleangpt.trainers.history import Evaluation, History
from cleangpt.trainers.measuring import measure
from cleangpt.trainers.objective import Objective, ObjectiveModule, learned_count, learned_loss
from cleangpt.trainers.processes import Processes, joined, own_device
from cleangpt.trainers.random_streams import seed_everything
from cleangpt.trainers.settings import TrainingSettings

_RATE_WITHOUT_SCHEDULE = 1e-3
# more than these in a row are no accident
_MOST_SKIPPED = 10


@dataclass(frozen=True, eq=False)
class Training:
    """A training: the model, the data and the settings.

    `optimizer` None means fused AdamW without weight decay on norms and biases. `device` None means the model's
    device. `objective` must return the mean over `learned_count(batch)` positions.
    """

    model: nn.Module
    data: EpochBatches
    settings: TrainingSettings
    validation: EpochBatches | None = None
    checkpoints: Checkpoints | None = None
    callbacks: Sequence[Callback] = ()
    optimizer: Optimizer | None = None
    device: torch.device | str | None = None
    objective: Objective = learned_loss


def train(training: Training) -> History:
    """Trains the model in place, to the end or until a callback stops it, and leaves it in evaluation mode.

    With checkpoints, a training that was killed resumes from its last checkpoint and computes the same numbers as an
    uninterrupted one on the same machine. Under `torchrun`, each process trains on its share of the rows of every
    batch; the numbers equal those of a single process up to rounding.

    Raises:
        CheckpointMismatchError, CheckpointBrokenError: the training cannot resume from the checkpoint, or the data does
            not repeat the batches from before it.
        TrainingDivergedError: a loss, a gradient or a weight is no longer finite; the last checkpoint is from before
            that.
        EmptyDataError: there are no batches, or there is nothing in an epoch to predict.
        FolderInUseError: another training writes its checkpoints to the same folder.
    """
    device = torch.device(training.device or next(training.model.parameters()).device)
    with joined(device) as processes:
        checkpoints = training.checkpoints
        with locked(checkpoints.folder) if checkpoints and processes.is_first else nullcontext():
            return _Loop(training, own_device(device), processes).run()


def adamw(model: nn.Module, settings: TrainingSettings) -> Optimizer:
    """Fused AdamW, with weight decay on matrices but not on norms and biases."""
    parameters = [each for each in model.parameters() if each.requires_grad]
    groups = [
        {"params": [each for each in parameters if each.dim() >= 2], "weight_decay": settings.weight_decay},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=_RATE_WITHOUT_SCHEDULE, betas=settings.betas, fused=True)


class _Loop:
    """One run of a training in one process."""

    def __init__(self, training: Training, device: torch.device, processes: Processes) -> None:
        self._training = training
        self._settings = training.settings
        self._device = device
        self._processes = processes
        self._model = training.model.to(device)
        self._optimizer = training.optimizer or adamw(self._model, training.settings)
        self._feed = Feed(training.data, training.settings)
        self._stream = self._feed.steps()
        self._run = Run(self._model, training.settings, self._feed.total_steps())
        self._made = Made({}, self._run.total_steps)
        self._is_in_epoch, self._n_learned = False, 0
        self._saved_at = time.monotonic()
        self._callbacks = [each for each in training.callbacks if each.everywhere or processes.is_first]
        if training.settings.compile:
            try_out(self._model)
            getattr(self._model, "base_model", self._model).compile()
        self._objective: Any = ObjectiveModule(self._model, training.objective)
        if processes.count > 1:
            self._objective = DistributedDataParallel(self._objective)

    def run(self) -> History:
        checkpoints = self._training.checkpoints
        if checkpoints:
            self._made = replace(self._made, described=self._describe(checkpoints))
            self._run.made_from = self._made.described
            self._run.history = restore_state(checkpoints, self._made, self._model, self._optimizer, self._resume)
        self._model.train()
        try:
            self._tell("on_begin")
            self._steps()
        finally:
            self._model.eval()
            self._tell("on_end")
        return self._run.history

    def _describe(self, checkpoints: Checkpoints) -> dict[str, str]:
        """What a checkpoint has to have been made from for this training to go on from it."""
        described = {**self._settings.described, **checkpoints.made_from}
        if TEXT not in described:
            described |= self._feed.described()
        if self._training.validation is not None and not of_validation({TEXT: ""}).keys() <= described.keys():
            described |= of_validation(Feed(self._training.validation, self._settings).described())
        return {**described, START_WEIGHTS: digest_of_weights(self._model)}

    def _resume(self, history: History, state: FeedState) -> None:
        checkpoints = self._training.checkpoints
        if checkpoints and 0 < history.step < self._run.total_steps:
            self._stream = self._feed.resumed(state, history.step, exact=checkpoints.exact)

    def _steps(self) -> None:
        run, history = self._run, self._run.history
        at_start, began, before = run.step, time.monotonic(), history.seconds
        while run.step < run.total_steps and not self._processes.any(run.stopped is not None, self._device):
            batches = next(self._stream)
            if not self._is_in_epoch:
                self._begin_epoch()
            rate = self._set_rate()
            loss, norm = self._step(batches)
            history.losses.append(loss)
            history.rates.append(rate)
            history.gradient_norms.append(norm)
            history.tokens.append(sum(batch.ids_BT.numel() for batch in batches))
            history.seconds = before + time.monotonic() - began
            self._tell("on_step")
            self._evaluate_where_due()
            if self._feed.ends_epoch or run.step == run.total_steps:
                self._end_epoch()
            if self._is_checkpoint_due():
                self._save()
        if run.step > at_start:
            check_finite(self._model, run.step)
            self._save()

    def _begin_epoch(self) -> None:
        self._is_in_epoch, self._n_learned, self._run.epoch = True, 0, self._feed.epoch
        self._tell("on_epoch_begin")

    def _end_epoch(self) -> None:
        """Raises EmptyDataError if the epoch had nothing to learn."""
        if not self._n_learned:
            raise EmptyDataError(
                f"nothing in epoch {self._run.epoch} of the training data is to be predicted: all labels are -100, or "
                "its rows have one id each"
            )
        if self._feed.ends_epoch:
            self._is_in_epoch = False
            self._tell("on_epoch_end")

    def _set_rate(self) -> float:
        schedule = self._settings.schedule
        if schedule is not None:
            for group in self._optimizer.param_groups:
                group["lr"] = schedule.rate(self._run.step, self._run.total_steps)
        return float(self._optimizer.param_groups[0]["lr"])

    def _step(self, batches: Sequence[Batch]) -> tuple[float, float]:
        """Takes one optimizer step.

        Returns:
            The mean loss over the learned positions of all batches and processes, and the gradient's norm.
        """
        seed_everything((self._settings.seed * 1_000_003 + self._run.step) * 4099 + self._processes.rank)
        n_learned = sum(learned_count(batch) for batch in batches)
        self._n_learned += n_learned
        total = torch.zeros((), device=self._device)
        for number, batch in enumerate(batches, start=1):
            with self._gradient_exchange(is_last=number == len(batches)):
                total += self._backward(batch, max(1, n_learned))
        value = float(self._processes.sum(total))
        if not math.isfinite(value):
            raise TrainingDivergedError(
                f"the loss became {value} in step {self._run.step + 1}; lower the peak learning rate and start again"
            )
        norm = self._clip()
        if math.isfinite(norm):
            self._optimizer.step()
        else:
            self._skip(norm)
        self._optimizer.zero_grad()
        return value, norm

    def _clip(self) -> float:
        """The gradient's norm, over all that is trained; clips the gradient if the settings say so."""
        trained = [each for each in self._model.parameters() if each.grad is not None]
        norm = torch.nn.utils.get_total_norm([each.grad for each in trained if each.grad is not None])
        if self._settings.clip_norm is not None:
            torch.nn.utils.clip_grads_with_norm_(trained, self._settings.clip_norm, norm)
        return float(norm)

    def _skip(self, norm: float) -> None:
        """Counts a step whose gradient is not finite. Raises TrainingDivergedError if it is not to be skipped."""
        step, skipped = self._run.step + 1, self._run.history.skipped
        skipped.append(step)
        if self._settings.non_finite_gradient == "stop":
            raise TrainingDivergedError(
                f"the gradient's norm became {norm} in step {step}, though the loss was finite; lower the peak "
                "learning rate, or skip such steps with non_finite_gradient='skip'"
            )
        if skipped[-_MOST_SKIPPED:] == list(range(step - _MOST_SKIPPED + 1, step + 1)):
            raise TrainingDivergedError(
                f"the gradient was not finite in the {_MOST_SKIPPED} steps up to {step}; lower the peak learning rate"
            )

    def _backward(self, batch: Batch, n_learned: int) -> torch.Tensor:
        """Adds this process's part of the gradient; returns its part of the loss."""
        share = self._processes.share(batch)
        count = learned_count(share)
        if not count:
            # this process has no row to learn, but DDP waits for its gradient: send that of any row, times zero
            share = replace(batch.of_rows(slice(1)), learned_BT=None)
        with torch.autocast(self._device.type, dtype=torch.bfloat16, enabled=self._settings.bf16_autocast):
            part: torch.Tensor = self._objective(share.to(self._device)) * (count / n_learned)
        # DDP averages over the processes, but the sum is needed
        (part * self._processes.count).backward()  # type: ignore[no-untyped-call]
        return part.detach()

    def _gradient_exchange(self, *, is_last: bool) -> Any:
        return nullcontext() if is_last or self._processes.count == 1 else self._objective.no_sync()

    def _evaluate_where_due(self) -> None:
        run, validation = self._run, self._training.validation
        if validation is None or not (run.step % self._settings.evaluate_every == 0 or run.step == run.total_steps):
            return
        loss = self._validation_loss(validation)
        best = run.history.best
        if not math.isfinite(loss):
            kept = "" if best is None else f"; the best weights are those of step {best.step}"
            raise TrainingDivergedError(
                f"the validation loss became {loss} after step {run.step}; lower the peak learning rate{kept}"
            )
        run.history.evaluations.append(Evaluation(run.step, loss))
        checkpoints = self._training.checkpoints
        is_best = best is None or loss < best.loss
        if checkpoints and checkpoints.keeps_best and self._processes.is_first and is_best:
            save_best(checkpoints, self._model, run.step)
        self._tell("on_evaluation")

    def _validation_loss(self, validation: EpochBatches) -> float:
        self._model.eval()
        objective, bf16_autocast = self._training.objective, self._settings.bf16_autocast
        found = measure(self._model, validation, objective, self._device, self._processes, bf16_autocast=bf16_autocast)
        self._model.train()
        return found.loss

    def _is_checkpoint_due(self) -> bool:
        checkpoints = self._training.checkpoints
        if checkpoints is None or self._run.step == self._run.total_steps:
            return False
        by_steps = checkpoints.every_steps is not None and self._run.step % checkpoints.every_steps == 0
        return by_steps or time.monotonic() - self._saved_at > checkpoints.every_seconds

    def _save(self) -> None:
        checkpoints = self._training.checkpoints
        if checkpoints and self._processes.is_first:
            state = self._feed.state()
            save_state(checkpoints, self._made, self._model, self._optimizer, self._run.history, state)
            self._saved_at = time.monotonic()
            self._tell("on_checkpoint")

    def _tell(self, occasion: str) -> None:
        for callback in self._callbacks:
            getattr(callback, occasion)(self._run)
