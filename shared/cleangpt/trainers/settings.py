"""The settings that determine the results of a training: plain frozen values, without torch."""

import math
from dataclasses import dataclass, fields
from numbers import Integral
from typing import Literal

from cleangpt.errors import TrainingSettingsError
from cleangpt.trainers.schedule import Schedule


@dataclass(frozen=True)
class TrainingSettings:
    """A training runs for `epochs` passes over the text or for `max_steps` optimizer steps; set exactly one.

    `accumulate` batches make one step, as if they were one batch. `schedule` None keeps the optimizer's learning
    rate. `clip_norm` None disables clipping. `non_finite_gradient` says whether a gradient that is infinite or NaN ends
    the training, or is skipped, ten times in a row at most. `evaluate_every` is in steps; there is one more evaluation
    at the end.

    Raises TrainingSettingsError for values that are out of range.
    """

    epochs: int | None = None
    max_steps: int | None = None
    schedule: Schedule | None = None
    weight_decay: float = 0.01
    betas: tuple[float, float] = (0.9, 0.95)
    clip_norm: float | None = 1.0
    non_finite_gradient: Literal["stop", "skip"] = "stop"
    accumulate: int = 1
    bf16_autocast: bool = False
    compile: bool = False
    seed: int = 0
    evaluate_every: int = 200

    def __post_init__(self) -> None:
        if (self.epochs is None) == (self.max_steps is None):
            raise TrainingSettingsError(
                f"a training ends after epochs or after max_steps, exactly one of them; "
                f"found epochs={self.epochs}, max_steps={self.max_steps}"
            )
        for name in ("epochs", "max_steps", "accumulate", "evaluate_every"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, Integral) or int(value) < 1):
                raise TrainingSettingsError(f"{name} has to be a whole number of 1 or more, found {value!r}")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise TrainingSettingsError(f"clip_norm has to be above 0, or None not to clip; found {self.clip_norm}")
        if not 0 <= self.weight_decay < math.inf:
            raise TrainingSettingsError(
                f"weight_decay has to be a finite number of 0 or more, found {self.weight_decay}"
            )
        if self.non_finite_gradient not in ("stop", "skip"):
            raise TrainingSettingsError(f"non_finite_gradient is 'stop' or 'skip'; found {self.non_finite_gradient!r}")

    @property
    def described(self) -> dict[str, str]:
        """The repr of each field, to tell two trainings apart."""
        return {each.name: repr(getattr(self, each.name)) for each in fields(self)}
