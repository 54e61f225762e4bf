"""The training loop: AdamW over batches of rows, with checkpoints that resume to the bit.

Shapes: B rows, T positions, N learned positions, D hidden size, V vocabulary.
"""

import hashlib
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from tqdm import tqdm
from transformers import PreTrainedModel

from cleangpt.errors import CheckpointMismatchError, TrainingDivergedError
from cleangpt.rows import Row
from cleangpt.schedule import WarmupStableDecay

CHECKPOINT_FILE = "checkpoint.pt"


@dataclass(frozen=True)
class TrainingSettings:
    """Everything that decides what a training computes. `epochs` passes over the text."""

    epochs: int
    schedule: WarmupStableDecay
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float = 1.0
    bf16_autocast: bool = True


@dataclass(frozen=True)
class Checkpoints:
    """Where the loop saves its state, and how often. `identity` names the text and the model."""

    folder: Path
    identity: str
    every_seconds: float = 60.0


class EpochBatches(Protocol):
    """What the loop trains on: the batches of each epoch, the same whenever they are asked for."""

    def batches(self, epoch: int) -> Sequence[Sequence[Row]]: ...


@dataclass
class _Progress:
    """How far a training is; `losses` has one entry per finished step."""

    step: int = 0
    losses: list[float] = field(default_factory=list)


def train(
    model: PreTrainedModel,
    data: EpochBatches,
    settings: TrainingSettings,
    checkpoints: Checkpoints | None = None,
    *,
    show_progress: bool = False,
) -> list[float]:
    """Trains `model` in place and returns the loss of every step (nats per learned token).

    With `checkpoints`, a training that was killed goes on where its last checkpoint was written and
    computes the same numbers as an uninterrupted one on the same machine. Raises
    CheckpointMismatchError for a checkpoint of another training and TrainingDivergedError when the
    loss is no longer finite.
    """
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, settings.weight_decay), lr=0.0, betas=settings.betas, fused=True
    )
    total_steps = sum(len(data.batches(epoch)) for epoch in range(settings.epochs))
    progress = _resumed(model, optimizer, settings, checkpoints)
    model.train()
    saved_at = time.monotonic()
    with tqdm(total=total_steps, initial=progress.step, unit="step", disable=not show_progress) as bar:
        meter = _Meter()
        for batch in _remaining(data, settings.epochs, progress.step):
            for group in optimizer.param_groups:
                group["lr"] = settings.schedule.rate(progress.step, total_steps)
            loss = _step(model, optimizer, batch, settings)
            progress.step += 1
            progress.losses.append(loss)
            bar.set_postfix_str(meter.line(loss, sum(len(row.ids) for row in batch)), refresh=False)
            bar.update()
            if checkpoints and time.monotonic() - saved_at > checkpoints.every_seconds:
                _save(model, optimizer, settings, checkpoints, progress)
                saved_at = time.monotonic()
    if checkpoints:
        _save(model, optimizer, settings, checkpoints, progress)
    model.eval()
    return progress.losses


def learned_loss(model: PreTrainedModel, batch: Sequence[Row]) -> Tensor:
    """Mean cross entropy over the learned positions of a batch, a float32 scalar with its graph."""
    width = max(len(row.ids) for row in batch)
    # padding stands on the right, where a causal model's earlier positions cannot see it: no mask needed
    ids_BT = torch.tensor([[*row.ids, *[0] * (width - len(row.ids))] for row in batch])
    learned_BT = torch.tensor([[*row.learned, *[False] * (width - len(row.learned))] for row in batch])
    hidden_BTD = model.base_model(input_ids=ids_BT, use_cache=False).last_hidden_state
    # the head only runs where there is something to learn
    hidden_ND = hidden_BTD[:, :-1][learned_BT[:, 1:]]
    logits_NV = model.get_output_embeddings()(hidden_ND)
    return functional.cross_entropy(logits_NV.float(), ids_BT[:, 1:][learned_BT[:, 1:]])


def _step(
    model: PreTrainedModel, optimizer: torch.optim.Optimizer, batch: Sequence[Row], settings: TrainingSettings
) -> float:
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=settings.bf16_autocast):
        loss = learned_loss(model, batch)
    value = float(loss.detach())
    if not torch.isfinite(loss):
        raise TrainingDivergedError(f"the loss became {value}; lower the peak learning rate and start again")
    loss.backward()  # type: ignore[no-untyped-call]
    torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
    optimizer.step()
    optimizer.zero_grad()
    return value


def _parameter_groups(model: PreTrainedModel, weight_decay: float) -> list[dict[str, Any]]:
    """Matrices decay, norms and biases do not."""
    parameters = list(model.parameters())
    return [
        {"params": [each for each in parameters if each.dim() >= 2], "weight_decay": weight_decay},
        {"params": [each for each in parameters if each.dim() < 2], "weight_decay": 0.0},
    ]


def _remaining(data: EpochBatches, epochs: int, done: int) -> Iterator[Sequence[Row]]:
    """The batches after the first `done` ones."""
    for epoch in range(epochs):
        batches = data.batches(epoch)
        yield from batches[done:]
        done = max(0, done - len(batches))


def _identity(settings: TrainingSettings, checkpoints: Checkpoints) -> str:
    return hashlib.sha256(f"{settings} {checkpoints.identity}".encode()).hexdigest()


def _resumed(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    checkpoints: Checkpoints | None,
) -> _Progress:
    file = checkpoints.folder / CHECKPOINT_FILE if checkpoints else None
    if checkpoints is None or file is None or not file.exists():
        return _Progress()
    saved = torch.load(file, weights_only=True)
    if saved["identity"] != _identity(settings, checkpoints):
        raise CheckpointMismatchError(
            f"{file} was written by a training with other settings, other text or another model; "
            f"remove {checkpoints.folder} to start again"
        )
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    return _Progress(saved["step"], saved["losses"])


def _save(
    model: PreTrainedModel,
    optimizer: torch.optim.Optimizer,
    settings: TrainingSettings,
    checkpoints: Checkpoints,
    progress: _Progress,
) -> None:
    """Writes beside the last checkpoint and replaces it, so that a kill leaves one of the two whole."""
    checkpoints.folder.mkdir(parents=True, exist_ok=True)
    state = {
        "identity": _identity(settings, checkpoints),
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "step": progress.step,
        "losses": progress.losses,
    }
    partial = checkpoints.folder / f"{CHECKPOINT_FILE}.tmp"
    torch.save(state, partial)
    partial.replace(checkpoints.folder / CHECKPOINT_FILE)


class _Meter:
    """Smooths what the progress bar shows."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._tokens = 0
        self._loss: float | None = None

    def line(self, loss: float, tokens: int) -> str:
        self._tokens += tokens
        self._loss = loss if self._loss is None else 0.95 * self._loss + 0.05 * loss
        rate = self._tokens / max(1e-9, time.monotonic() - self._started)
        return f"loss {self._loss:.4f}, {rate:.0f} tokens/s"
