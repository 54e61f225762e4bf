"""The base class of all trainers: a model, its batches and the loop. A new strategy overrides `loss` or `callbacks`."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader

from cleangpt.data.batches import Batch, EpochBatches
from cleangpt.errors import EmptyDataError
from cleangpt.trainers.callbacks import Callback
from cleangpt.trainers.checkpoint import Checkpoints
from cleangpt.trainers.history import History
from cleangpt.trainers.loaders import epochs_of
from cleangpt.trainers.loop import Training, train
from cleangpt.trainers.measuring import Measurement, measure
from cleangpt.trainers.modes import evaluation_mode
from cleangpt.trainers.objective import learned_loss
from cleangpt.trainers.processes import joined, own_device
from cleangpt.trainers.settings import TrainingSettings

Batches = EpochBatches | DataLoader[Any] | Sequence[Any]


@dataclass(frozen=True, eq=False)
class TrainerOptions:
    """The options of a trainer besides model, batches, optimizer, device and epochs.

    Trainers that do not take `callbacks` ignore them.
    """

    settings: TrainingSettings | None = None
    validation: Batches | None = None
    checkpoints: Checkpoints | None = None
    callbacks: Sequence[Callback] = ()


class BaseTrainer(ABC):
    """Trains `model` on the batches of `dataloader`: a torch DataLoader, a list of its items, or an EpochBatches.

    `optimizer` None means AdamW; `device` None means the model's device. `num_epochs` overrides the length in the
    options' settings; without either, there is one epoch.
    """

    def __init__(
        self,
        model: nn.Module,
        dataloader: Batches,
        optimizer: Optimizer | None = None,
        device: torch.device | str | None = None,
        num_epochs: int | None = None,
        options: TrainerOptions | None = None,
    ) -> None:
        self.options = options or TrainerOptions()
        settings = self.options.settings or TrainingSettings(epochs=num_epochs or 1)
        self.settings = settings if num_epochs is None else replace(settings, epochs=num_epochs, max_steps=None)
        self.model = model
        self.dataloader = dataloader
        self.optimizer = optimizer
        self.device = device

    @abstractmethod
    def callbacks(self) -> Sequence[Callback]:
        """The callbacks of the loop."""

    def loss(self, model: Any, batch: Batch) -> Tensor:
        """The scalar that a step minimizes: the mean over the learned positions of `batch`, on the model's device."""
        return learned_loss(model, batch)

    def train(self) -> History:
        """Trains to the end or until a callback stops it. Raises the errors of `cleangpt.trainers.loop.train`."""
        validation = self.options.validation
        return train(
            Training(
                model=self.model,
                data=self._epochs(self.dataloader),
                settings=self.settings,
                validation=None if validation is None else self._epochs(validation),
                checkpoints=self.options.checkpoints,
                callbacks=self.callbacks(),
                optimizer=self.optimizer,
                device=self.device,
                objective=self.loss,
            )
        )

    def evaluate(self, dataloader: Batches | None = None) -> Measurement:
        """The mean of `loss` over `dataloader`, by default the options' validation, and the number of predicted ids.

        It is the number that the history has of an evaluation. The model is in evaluation mode meanwhile, and then
        again in the mode it was in.

        Raises:
            EmptyDataError: there is neither, or nothing in it is to be predicted.
        """
        data = self.options.validation if dataloader is None else dataloader
        if data is None:
            raise EmptyDataError(
                "there is nothing to evaluate on: give evaluate a dataloader, or the trainer validation="
            )
        device = torch.device(self.device or next(self.model.parameters()).device)
        with joined(device) as processes, evaluation_mode(self.model):
            place, bf16_autocast = own_device(device), self.settings.bf16_autocast
            model = self.model.to(place)
            return measure(model, self._epochs(data), self.loss, place, processes, bf16_autocast=bf16_autocast)

    def _epochs(self, batches: Batches) -> EpochBatches:
        return epochs_of(batches, self.settings.seed)
