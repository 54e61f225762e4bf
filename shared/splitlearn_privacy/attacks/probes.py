"""Small networks that read each position alone.

Shapes: W width of what is seen at a position, D hidden size.
"""

from typing import Final

from torch import nn

from splitlearn_privacy.attacks.attack import Attack
from splitlearn_privacy.attacks.token_reader import Training

_WIDEST: Final = 1024


def _mlp(width: int, hidden_size: int) -> nn.Module:
    inner = min(_WIDEST, 4 * hidden_size)
    return nn.Sequential(
        nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, hidden_size), nn.LayerNorm(hidden_size, bias=False)
    )


LINEAR = Training(nn.Linear, learning_rate=3e-3)
LINEAR_PROBE = Attack("linear probe", "arXiv 1610.01644", LINEAR.read)
MLP_PROBE = Attack("MLP probe", "arXiv 2602.16760", Training(_mlp, learning_rate=1e-3).read)
