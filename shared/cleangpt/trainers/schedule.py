"""Learning rate schedules: warm-up, plateau, decay. Plain numbers, without torch."""

import math
from dataclasses import dataclass
from typing import Protocol

from cleangpt.errors import TrainingSettingsError


class Schedule(Protocol):
    """A learning rate for every step; its repr contains all its parameters."""

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of `step`, counted from 0, in a training of `total_steps`."""
        ...


@dataclass(frozen=True)
class WarmupStableDecay:
    """Linear warm-up to `peak`, then constant, then linear decay to nearly zero (Hu et al. 2024, arXiv 2404.06395).

    `warmup` is in steps; `decay` is the last phase's share of all steps. Raises TrainingSettingsError.
    """

    peak: float
    warmup: int
    decay: float

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup, "decay", self.decay)

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of `step`, counted from 0; never above the peak, never zero."""
        rising = (step + 1) / self.warmup if self.warmup else 1.0
        falling = (total_steps - step) / max(1.0, self.decay * total_steps)
        return self.peak * min(1.0, rising, falling)


@dataclass(frozen=True)
class WarmupCosine:
    """Linear warm-up to `peak`, then half a cosine down to `floor` times `peak` (Loshchilov & Hutter 2017).

    `warmup` is in steps; `floor` is a share between 0 and 1. Raises TrainingSettingsError.
    """

    peak: float
    warmup: int
    floor: float = 0.1

    def __post_init__(self) -> None:
        _check(self.peak, self.warmup, "floor", self.floor)

    def rate(self, step: int, total_steps: int) -> float:
        """The learning rate of `step`, counted from 0; it reaches the floor at the last step."""
        if step < self.warmup:
            return self.peak * (step + 1) / self.warmup
        done = (step - self.warmup) / max(1, total_steps - 1 - self.warmup)
        return self.peak * (self.floor + (1.0 - self.floor) * 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))


def _check(peak: float, warmup: int, name: str, share: float) -> None:
    if not 0 < peak < math.inf:
        raise TrainingSettingsError(f"the highest learning rate has to be a finite number above 0, found {peak}")
    if not 0 <= warmup < math.inf:
        raise TrainingSettingsError(f"the steps of warm-up have to be a finite number of 0 or more, found {warmup}")
    if not 0 <= share <= 1:
        raise TrainingSettingsError(f"{name} is a share between 0 and 1, found {share}")
