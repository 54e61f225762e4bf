"""Everything besides the training itself: progress bar, files, plots, early stopping; trackers are in `trackers`.

A callback sees the run and may stop it; it never changes what a step computes.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torch import nn
from tqdm import tqdm

from cleangpt.trainers.history import History
from cleangpt.trainers.settings import TrainingSettings
from cleangpt.writing import replacing


@dataclass
class Run:
    """A training run as callbacks see it. `stopped` is the reason to end it, or None; `epoch` counts from 0.

    `made_from` is what its checkpoints say that it is made from, by name; empty without checkpoints.
    """

    model: nn.Module
    settings: TrainingSettings
    total_steps: int
    history: History = field(default_factory=History)
    stopped: str | None = None
    epoch: int = 0
    made_from: Mapping[str, str] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many steps are finished."""
        return self.history.step

    def stop(self, reason: str) -> None:
        """Ends the training after the current step, with a checkpoint; later calls do not change the reason."""
        self.stopped = self.stopped or reason


class Callback:
    """A callback that does nothing; override the methods you need.

    With several processes, only the first one calls it. If `everywhere` is set, each process calls it and sees the
    same history.
    """

    everywhere: ClassVar[bool] = False

    def on_begin(self, run: Run) -> None:
        """Before the first step of this process; `run.step` is above 0 in a resumed training."""

    def on_epoch_begin(self, run: Run) -> None:
        """Before the first step of every epoch; a resumed training begins its epoch again."""

    def on_step(self, run: Run) -> None:
        """After every optimizer step."""

    def on_epoch_end(self, run: Run) -> None:
        """After the last step of every epoch, and its evaluation if one was due."""

    def on_evaluation(self, run: Run) -> None:
        """After every evaluation; the newest is the last entry of `run.history.evaluations`."""

    def on_checkpoint(self, run: Run) -> None:
        """After a checkpoint was written to disk."""

    def on_end(self, run: Run) -> None:
        """At the end of a run, even if an error ended it."""


class ProgressBar(Callback):
    """A bar on stderr with smoothed loss, tokens/s, the last validation loss and the remaining time."""

    def __init__(self) -> None:
        self._bar: tqdm[Any] | None = None
        self._loss: float | None = None
        self._tokens = 0
        self._seconds_before = 0.0

    def on_begin(self, run: Run) -> None:
        self._bar = tqdm(total=run.total_steps, initial=run.step, unit="step", file=sys.stderr, dynamic_ncols=True)
        self._loss = None
        self._tokens, self._seconds_before = 0, run.history.seconds

    def on_step(self, run: Run) -> None:
        if self._bar is None:
            return
        loss = run.history.losses[-1]
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        self._tokens += run.history.tokens[-1]
        self._show(run)
        self._bar.update()

    def on_evaluation(self, run: Run) -> None:
        self._show(run)

    def on_end(self, run: Run) -> None:
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _show(self, run: Run) -> None:
        if self._bar is None or self._loss is None:
            return
        rate = self._tokens / max(1e-9, run.history.seconds - self._seconds_before)
        line = f"loss {self._loss:.4f}, {rate:.0f} tokens/s"
        if run.history.evaluations:
            line += f", validation {run.history.evaluations[-1].loss:.4f}"
        self._bar.set_postfix_str(line, refresh=False)


@dataclass(frozen=True)
class EarlyStop(Callback):
    """Stops a training if the validation loss has not dropped by more than `least` nats in `patience` evaluations."""

    patience: int
    least: float = 0.0
    everywhere: ClassVar[bool] = True

    def on_begin(self, run: Run) -> None:
        self.on_evaluation(run)

    def on_evaluation(self, run: Run) -> None:
        losses = [each.loss for each in run.history.evaluations]
        if len(losses) <= self.patience:
            return
        before, recent = min(losses[: -self.patience]), min(losses[-self.patience :])
        if not recent < before - self.least:
            run.stop(f"the validation loss has not fallen below {before:.4f} for {self.patience} evaluations")


@dataclass(frozen=True)
class HistoryFile(Callback):
    """Writes the history to `file` at each checkpoint and at the end: CSV if the name ends in .csv, else JSON."""

    file: Path

    def on_checkpoint(self, run: Run) -> None:
        text = run.history.to_csv() if self.file.suffix == ".csv" else run.history.to_json()
        with replacing(self.file) as partial:
            partial.write_text(text, encoding="utf-8")

    def on_end(self, run: Run) -> None:
        self.on_checkpoint(run)


@dataclass(frozen=True)
class CurvesPlot(Callback):
    """Plots loss, validation loss and learning rate to `file` at the end."""

    file: Path

    def on_end(self, run: Run) -> None:
        from cleangpt.trainers.plots import draw_curves

        if run.history.losses:
            draw_curves({"": run.history}, self.file)
