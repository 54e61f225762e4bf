"""One stage of a distillation: fits some parameters by one objective, with its own checkpoints."""

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from torch import Tensor, device, nn
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch, EpochBatches
from cleangpt.errors import EmptyDataError, TrainingSettingsError
from cleangpt.trainers.callbacks import Callback, Run
from cleangpt.trainers.checkpoint import Checkpoints
from cleangpt.trainers.differences import of_validation
from cleangpt.trainers.digests import START_WEIGHTS
from cleangpt.trainers.feed import Feed
from cleangpt.trainers.history import History
from cleangpt.trainers.loop import Training, train
from cleangpt.trainers.schedule import WarmupStableDecay
from cleangpt.trainers.settings import TrainingSettings

_WARMUP_SHARE = 0.1
_LONGEST_WARMUP = 50
_DECAY_SHARE = 0.6
_STAGE = "stage"
# save_pretrained adds these fields to the model's config
_FILLED_IN_BY_SAVING = ("architectures", "dtype")


@dataclass(frozen=True)
class StagePlan:
    """The settings that all stages of one distillation share.

    `made_from` describes teacher, student and text; see `Checkpoints`. `output_dir` None writes no checkpoints.
    `settings` are those of the loop, except epochs and schedule, which each stage sets. Each stage measures its own
    loss on `validation`, which changes nothing of what it learns: it keeps its last weights.
    """

    data: EpochBatches
    settings: TrainingSettings
    made_from: Mapping[str, str]
    output_dir: Path | None = None
    device: device | str | None = None
    callbacks: Sequence[Callback] = ()
    validation: EpochBatches | None = None

    def fit(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        objective: Callable[[Batch], Tensor],
        epochs: int,
        peak_lr: float,
        *,
        models: Sequence[nn.Module] = (),
    ) -> History:
        """Fits `parameters`; the caller must freeze all others of their models (`standing_still`).

        Args:
            models: those that are in training mode during the steps, and in evaluation mode otherwise.

        A stage that was killed resumes from its last checkpoint; a finished one is loaded from it.

        Raises:
            CheckpointMismatchError, CheckpointBrokenError: the stage's checkpoint belongs to another distillation, or
                is damaged.
            TrainingDivergedError, EmptyDataError: see the loop's `train`.
        """
        steps = epochs * -(-len(self.data.batches(0)) // self.settings.accumulate)
        if not steps:
            raise EmptyDataError(f"stage {name} has nothing to learn from; give at least one batch and one epoch")
        warmup = min(_LONGEST_WARMUP, int(_WARMUP_SHARE * steps))
        settings = replace(
            self.settings, epochs=epochs, max_steps=None, schedule=WarmupStableDecay(peak_lr, warmup, _DECAY_SHARE)
        )
        checkpoints = None
        if self.output_dir is not None:
            made_from = {**self.made_from, _STAGE: name}
            checkpoints = Checkpoints(self.output_dir / "checkpoints" / name, made_from, keeps_best=False)
        with only(parameters):
            return train(
                Training(
                    model=_Fitted(parameters, models),
                    data=self.data,
                    settings=settings,
                    validation=self.validation,
                    checkpoints=checkpoints,
                    callbacks=self.callbacks,
                    device=self.device,
                    objective=lambda _, batch: objective(batch),
                )
            )


class _Fitted(nn.ParameterList):
    """A stage's parameters as the model that the loop trains. The models that they belong to are in its mode."""

    def __init__(self, parameters: Sequence[nn.Parameter], models: Sequence[nn.Module]) -> None:
        super().__init__(parameters)
        # in a tuple, or torch would count their other parameters as this module's
        self._models = tuple(models)

    def train(self, mode: bool = True) -> Self:
        for each in self._models:
            each.train(mode)
        return super().train(mode)


def rates_of(lr: float | Sequence[float], n_blocks: int) -> tuple[float, ...]:
    """The highest learning rate of each block, from one for all or one for each.

    Raises:
        TrainingSettingsError: there are neither one nor `n_blocks`.
    """
    if not isinstance(lr, Sequence):
        return (lr,) * n_blocks
    if len(lr) not in (1, n_blocks):
        raise TrainingSettingsError(
            f"lr_per_block has {len(lr)} rates for {n_blocks} blocks; give one for all, or one for each"
        )
    return tuple(lr) if len(lr) == n_blocks else tuple(lr) * n_blocks


def described(data: EpochBatches, settings: TrainingSettings, validation: EpochBatches | None) -> dict[str, str]:
    """What the checkpoints of all stages say of their data, for `made_from`."""
    held_out = {} if validation is None else of_validation(Feed(validation, settings).described())
    return {**Feed(data, settings).described(), **held_out}


def of_all_stages(run: Run) -> dict[str, str]:
    """Of what a stage is made from, by name: what all stages of the distillation have in common."""
    own = {*run.settings.described, _STAGE, START_WEIGHTS}
    return {name: value for name, value in run.made_from.items() if name not in own}


def shape_in_words(model: PreTrainedModel) -> str:
    """A model's config and dtype as text, for `made_from`; saving the model does not change it."""
    config = model.config.to_diff_dict()
    kept = {name: value for name, value in config.items() if name not in _FILLED_IN_BY_SAVING}
    return f"{json.dumps(kept, sort_keys=True)} {model.dtype}"


@contextmanager
def only(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Enables gradients for these parameters while the context lasts."""
    before = [each.requires_grad for each in parameters]
    for each in parameters:
        each.requires_grad_(True)
    try:
        yield
    finally:
        for each, was in zip(parameters, before, strict=True):
            each.requires_grad_(was)
            each.grad = None


@contextmanager
def standing_still(*modules: nn.Module) -> Iterator[None]:
    """Freezes all parameters of the modules while the context lasts."""
    parameters = [each for module in modules for each in module.parameters()]
    before = [each.requires_grad for each in parameters]
    for each in parameters:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each, was in zip(parameters, before, strict=True):
            each.requires_grad_(was)
