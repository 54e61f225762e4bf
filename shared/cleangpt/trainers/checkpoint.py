"""Checkpoints on disk. Each is written to a temporary file that replaces the last one, so a kill leaves one intact."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cleangpt.data.batches import TEXT
from cleangpt.errors import CheckpointBrokenError, CheckpointMismatchError, TrainingDivergedError
from cleangpt.trainers.differences import WHEN_TEXT_CHANGES, changes_between, in_words
from cleangpt.trainers.feed import FeedState
from cleangpt.trainers.history import History
from cleangpt.writing import replacing
from llm_sepweight import CorruptFileError, UntrustedPickle
from llm_sepweight.torch_file import open_torch_file

LAST_FILE = "checkpoint.pt"
BEST_FILE = "best.pt"
_FORMAT = "cleangpt checkpoint 5"
_LENGTHS = {"epochs", "max_steps"}
# a module raises RuntimeError for other names or shapes
_DO_NOT_FIT = (RuntimeError, KeyError, TypeError, ValueError, AttributeError)


@dataclass(frozen=True)
class Checkpoints:
    """Where a loop saves its state, and how often.

    A checkpoint records the settings, a digest of the text of training and validation and how it is cut into batches,
    and a digest of the weights that the training started from. `made_from` adds what else it depends on, by name:
    digests, or short descriptions. A training that differs in any of them is not continued, unless `longer` is set and
    it takes more steps than the one before: then it goes on to its own end, with the learning rates that the schedule
    has for the longer training.

    A checkpoint is due `every_seconds` after the last one, and also every `every_steps` steps if that is set. If the
    data does not repeat the batches from before the checkpoint, a resuming training is refused if `exact` is set, and
    continues with a warning otherwise.

    `keeps_best` says whether the weights of the lowest validation loss are kept, too.
    """

    folder: Path
    made_from: Mapping[str, str] = field(default_factory=dict)
    every_seconds: float = 60.0
    every_steps: int | None = None
    exact: bool = True
    longer: bool = False
    keeps_best: bool = True

    @property
    def last(self) -> Path:
        """The file that a resumed training starts from."""
        return self.folder / LAST_FILE

    @property
    def best(self) -> Path:
        """The file with the weights of the lowest validation loss."""
        return self.folder / BEST_FILE


@dataclass(frozen=True)
class Made:
    """What a training is made from, by name, and how many steps it takes."""

    described: dict[str, str]
    total_steps: int


def save_state(
    checkpoints: Checkpoints,
    made: Made,
    model: nn.Module,
    optimizer: Optimizer,
    history: History,
    feed: FeedState,
) -> None:
    """Replaces the last checkpoint. A resuming training must match `made`.

    Raises TrainingDivergedError if a weight is infinite or NaN, and NotWrittenError if the disk is full; both leave the
    last checkpoint.
    """
    check_finite(model, history.step)
    state = {
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history.to_dict(),
        "data": asdict(feed),
    }
    _write(checkpoints.last, {**state, **asdict(made)})


def restore_state(
    checkpoints: Checkpoints,
    made: Made,
    model: nn.Module,
    optimizer: Optimizer,
    check: Callable[[History, FeedState], None],
) -> History:
    """Loads model and optimizer from the last checkpoint and returns its history, or an empty one without a checkpoint.

    Args:
        check: called with the checkpoint's history and feed before anything is loaded; it may raise.

    Raises CheckpointMismatchError if the checkpoint belongs to another training, and CheckpointBrokenError if it is
    damaged. Neither changes the file; the former leaves model and optimizer unchanged.
    """
    if not checkpoints.last.exists():
        return History()
    found = _read(checkpoints.last, ("model", "optimizer", "history", "described", "total_steps", "data"))
    if not isinstance(found["described"], dict) or not isinstance(found["total_steps"], int):
        raise _broken(checkpoints.last, "it does not describe its training")
    _check_made(checkpoints, Made(found["described"], found["total_steps"]), made)
    try:
        history, feed = History.from_dict(found["history"]), FeedState.from_dict(found["data"])
    except (KeyError, TypeError, ValueError) as error:
        raise _broken(checkpoints.last, f"its history cannot be read ({error!r})") from error
    check(history, feed)
    try:
        model.load_state_dict(found["model"])
        optimizer.load_state_dict(found["optimizer"])
    except _DO_NOT_FIT as error:
        raise _misfit(checkpoints.last, error) from error
    return history


def save_best(checkpoints: Checkpoints, model: nn.Module, step: int) -> None:
    """Replaces the best weights with those after `step` steps. Raises TrainingDivergedError, as `save_state`."""
    check_finite(model, step)
    _write(checkpoints.best, {"model": model.state_dict(), "step": step})


def load_best(checkpoints: Checkpoints, model: nn.Module) -> int:
    """Loads the best weights into `model` and returns their step. Raises CheckpointBrokenError."""
    found = _read(checkpoints.best, ("model", "step"))
    try:
        model.load_state_dict(found["model"])
        return int(found["step"])
    except _DO_NOT_FIT as error:
        raise _misfit(checkpoints.best, error) from error


def check_finite(model: nn.Module, step: int) -> None:
    """Raises TrainingDivergedError if a weight is infinite or NaN after `step` steps."""
    # not the buffers, where a model may keep limits that are infinite
    for name, value in model.named_parameters():
        if not value.isfinite().all():
            raise TrainingDivergedError(
                f"after step {step} the weights are no longer finite ({name}), and were not saved; lower the peak "
                "learning rate and start again, or go on from the last checkpoint"
            )


def _check_made(checkpoints: Checkpoints, found: Made, wanted: Made) -> None:
    """Raises CheckpointMismatchError unless both are the same; warns of another text if that is allowed."""
    changes = changes_between(found.described, wanted.described)
    if checkpoints.longer and wanted.total_steps > found.total_steps:
        changes = {name: change for name, change in changes.items() if name not in _LENGTHS}
    if list(changes) == [TEXT] and not checkpoints.exact:
        warnings.warn(
            f"{checkpoints.last} was written with another text; the training goes on: {WHEN_TEXT_CHANGES}",
            stacklevel=2,
        )
        return
    if changes:
        raise CheckpointMismatchError(
            f"{checkpoints.last} was written by another training: {in_words(changes)}. "
            f"Train as then to go on, or name another folder, or remove {checkpoints.folder} to start again"
        )


def _write(file: Path, state: Mapping[str, Tensor | Any]) -> None:
    with replacing(file) as partial, partial.open("wb") as stream:
        torch.save({"format": _FORMAT, **state}, stream)


def _read(file: Path, keys: tuple[str, ...]) -> dict[str, Any]:
    if not file.exists():
        raise CheckpointBrokenError(
            f"{file} is missing: put it back, or remove {file.parent} and what it belongs to, to start again"
        )
    try:
        found = open_torch_file(file)
    except OSError as error:
        raise _broken(file, str(error)) from error
    except UntrustedPickle as error:
        raise _broken(file, "it is damaged, or holds more than plain values and tensors, and was not read") from error
    except CorruptFileError as error:
        raise _broken(file, "it is damaged, or was not written to its end") from error
    if not isinstance(found, dict) or found.get("format") != _FORMAT or not all(key in found for key in keys):
        raise _broken(file, f"it does not say that it is a {_FORMAT!r} with {', '.join(keys)}")
    return found


def _misfit(file: Path, error: Exception) -> CheckpointBrokenError:
    return _broken(file, " ".join(f"it does not fit the model ({error})".split()))


def _broken(file: Path, reason: str) -> CheckpointBrokenError:
    return CheckpointBrokenError(
        f"{file} ({file.stat().st_size} bytes) is not a complete checkpoint: {reason}. "
        "The file was left as it is; put a good copy in its place, or move it away to start again"
    )
