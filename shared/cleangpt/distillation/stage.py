"""One stage of a distillation: some parameters fitted by one objective, with checkpoints of its own."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from torch import Tensor, device, nn
from transformers import PreTrainedModel

from cleangpt.data.batches import Batch, EpochBatches
from cleangpt.errors import EmptyDataError
from cleangpt.trainers.callbacks import Callback
from cleangpt.trainers.checkpoint import Checkpoints
from cleangpt.trainers.history import History
from cleangpt.trainers.loop import Training, train
from cleangpt.trainers.schedule import WarmupStableDecay
from cleangpt.trainers.settings import TrainingSettings

_WARMUP_SHARE = 0.1
_LONGEST_WARMUP = 50
_DECAY_SHARE = 0.6
# save_pretrained writes them into the config of the model that it saves
_FILLED_IN_BY_SAVING = ("architectures", "dtype")


@dataclass(frozen=True)
class StagePlan:
    """What all stages of one distillation share.

    `identity` names teacher, student and text. `output_dir` None keeps no checkpoints. `settings` are those of the
    loop; epochs and schedule come with each stage.
    """

    data: EpochBatches
    settings: TrainingSettings
    identity: str
    output_dir: Path | None = None
    device: device | str | None = None
    callbacks: Sequence[Callback] = ()

    def fit(
        self,
        name: str,
        parameters: Sequence[nn.Parameter],
        objective: Callable[[Batch], Tensor],
        epochs: int,
        peak_lr: float,
    ) -> History:
        """Fits `parameters`; all others of their models have to stand still (`only`).

        A stage that was killed goes on at its last checkpoint; one that was finished is filled from it.

        Raises:
            CheckpointMismatchError, CheckpointBrokenError: the stage's checkpoint is of another distillation, or no
                whole one.
            TrainingDivergedError, EmptyDataError: as the loop.
        """
        steps = epochs * len(self.data.batches(0))
        if not steps:
            raise EmptyDataError(f"stage {name} has nothing to learn from; give at least one batch and one epoch")
        warmup = min(_LONGEST_WARMUP, int(_WARMUP_SHARE * steps))
        settings = replace(
            self.settings, epochs=epochs, max_steps=None, schedule=WarmupStableDecay(peak_lr, warmup, _DECAY_SHARE)
        )
        checkpoints = None
        if self.output_dir is not None:
            checkpoints = Checkpoints(self.output_dir / "checkpoints" / name, f"{self.identity} {name}")
        with only(parameters):
            return train(
                Training(
                    model=nn.ParameterList(parameters),
                    data=self.data,
                    settings=settings,
                    checkpoints=checkpoints,
                    callbacks=self.callbacks,
                    device=self.device,
                    objective=lambda _, batch: objective(batch),
                )
            )


def shape_in_words(model: PreTrainedModel) -> str:
    """A model's config and dtype, for `identity`; the same before and after the model was saved."""
    config = model.config.to_diff_dict()
    kept = {name: value for name, value in config.items() if name not in _FILLED_IN_BY_SAVING}
    return f"{json.dumps(kept, sort_keys=True)} {model.dtype}"


@contextmanager
def only(parameters: Sequence[nn.Parameter]) -> Iterator[None]:
    """Gradients for these parameters, for as long as the context lasts."""
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
    """No gradients for any of the modules' parameters until the context ends."""
    parameters = [each for module in modules for each in module.parameters()]
    before = [each.requires_grad for each in parameters]
    for each in parameters:
        each.requires_grad_(False)
    try:
        yield
    finally:
        for each, was in zip(parameters, before, strict=True):
            each.requires_grad_(was)
