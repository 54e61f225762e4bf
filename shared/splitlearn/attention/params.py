"""What an architecture does to keys, scores and weights of attention."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class AttentionParams:
    """Parameters of one attention call.

    Attributes:
        expand: makes keys and values from the latents in the cache; None where the cache holds keys and values.
        scaling: of the scores; None: `head_dim ** -0.5`.
        softcap: scores become `softcap * tanh(score / softcap)`; None: they are not capped.
        sinks: a score per head that takes its share of the weights and has no value; None: there are none.
    """

    expand: Callable[..., Sequence[torch.Tensor]] | None = None
    scaling: float | None = None
    softcap: float | None = None
    sinks: torch.Tensor | None = None
