"""The learning rate over a training: warm-up, stable, decay (pure arithmetic)."""

from dataclasses import dataclass


@dataclass(frozen=True)
class WarmupStableDecay:
    """Rises linearly to `peak`, stays there, and falls linearly to zero over the last `decay` of all steps.

    The schedule of "MiniCPM: Unveiling the Potential of Small Language Models" (Hu et al., 2024), with a
    linear fall. `decay` is a fraction in (0, 1]; `warmup` counts steps.
    """

    peak: float
    warmup: int
    decay: float

    def rate(self, step: int, total_steps: int) -> float:
        """The rate of step `step`, counted from 0, of `total_steps`."""
        rising = (step + 1) / max(1, self.warmup)
        falling = (total_steps - step) / max(1.0, self.decay * total_steps)
        return self.peak * min(1.0, rising, falling)
