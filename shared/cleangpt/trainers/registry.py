"""The registry of trainers by name."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.optim import Optimizer

from cleangpt.errors import UnknownTrainerError
from cleangpt.trainers.base_trainer import BaseTrainer, Batches, TrainerOptions
from cleangpt.trainers.simple_trainer import SimpleTrainer
from cleangpt.trainers.train_with_callbacks import CallbackTrainer

TRAINER_REGISTRY: dict[str, type[BaseTrainer]] = {"simple": SimpleTrainer, "callbacks": CallbackTrainer}

T = TypeVar("T", bound=type[BaseTrainer])


def register_trainer(name: str) -> Callable[[T], T]:
    """A class decorator that registers a trainer as `name`; a later registration replaces an earlier one."""

    def register(trainer_class: T) -> T:
        TRAINER_REGISTRY[name] = trainer_class
        return trainer_class

    return register


def get_trainer(
    trainer_type: str,
    *,
    model: nn.Module,
    dataloader: Batches,
    optimizer: Optimizer | None = None,
    device: torch.device | str | None = None,
    num_epochs: int | None = None,
    **options: Any,
) -> BaseTrainer:
    """Creates the trainer registered as `trainer_type`, ready for `train()`.

    `options` are the fields of TrainerOptions: settings, validation, checkpoints, callbacks.
    Raises UnknownTrainerError if the name is not registered.
    """
    trainer_class = TRAINER_REGISTRY.get(trainer_type)
    if trainer_class is None:
        raise UnknownTrainerError(
            f"no trainer is registered as {trainer_type!r}; known are {', '.join(sorted(TRAINER_REGISTRY))}"
        )
    return trainer_class(model, dataloader, optimizer, device, num_epochs, TrainerOptions(**options))
