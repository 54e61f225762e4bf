"""A small transformer that reads each position with those before and behind it.

Shapes: B texts, T tokens of each, W width of what is seen at a position, D hidden size.
"""

from typing import Final

import torch
from torch import Tensor, nn

from cleangpt.model.shadow import Shadow, ShadowConfig
from splitlearn_privacy.attacks.attack import Attack
from splitlearn_privacy.attacks.token_reader import Training

_LAYERS: Final = 2
_HEAD_WIDTH: Final = 32
_WIDEST: Final = 512


class SequenceInverter(nn.Module):
    """Two of cleangpt's stacks: one reads from the beginning, one from the end. W in, D out."""

    def __init__(self, width: int, hidden_size: int) -> None:
        super().__init__()
        inner = min(_WIDEST, -(-hidden_size // _HEAD_WIDTH) * _HEAD_WIDTH)
        self.entrance = nn.Linear(width, inner)
        self.forwards, self.backwards = (_stack(inner) for _ in range(2))
        self.exit = nn.Sequential(nn.LayerNorm(2 * inner), nn.Linear(2 * inner, hidden_size))

    def forward(self, seen_BTW: Tensor) -> Tensor:
        """Rows [B, T, D], which embeddings are compared with."""
        inner_BTD = self.entrance(seen_BTW)
        pair = [self.forwards(inner_BTD), self.backwards(inner_BTD.flip(1)).flip(1)]
        return torch.as_tensor(self.exit(torch.cat(pair, dim=-1)))


def _stack(width: int) -> Shadow:
    heads = width // _HEAD_WIDTH
    return Shadow(
        ShadowConfig(
            hidden_size=width,
            width=width,
            num_hidden_layers=_LAYERS,
            num_attention_heads=heads,
            intermediate_size=2 * width,
        )
    )


SEQUENCE_INVERTER = Attack("sequence inverter", "arXiv 2507.16372", Training(SequenceInverter, learning_rate=1e-3).read)
