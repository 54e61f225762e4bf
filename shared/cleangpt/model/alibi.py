"""ALiBi as extra columns of queries and keys. It works with every attention kernel, because no kernel sees a bias.

"Train Short, Test Long" (ICLR 2022, arXiv 2108.12409) adds m_h (j - i) to the score of query i and key j, with a slope
m_h for each head. Here four extra columns in queries and keys add the same term:

    [256 r, r, i div 256, i mod 256] . [j div 256, j mod 256, -256 r, -r] = r (j - i),   r = m_h / scaling

Keys carry their positions into the cache, so cached rows, padding and batched sessions need nothing more. For texts of
up to 65 536 tokens, every column but r is a whole number below 257, which is exact even in bfloat16.

Shapes: B sequences, H heads, T rows.
"""

import math
from dataclasses import dataclass

import torch

N_COLUMNS = 4
_BASE = 256


@dataclass(frozen=True)
class AlibiColumns:
    """The columns to append to queries and to keys, both [B or 1, H, T, 4]."""

    query: torch.Tensor
    key: torch.Tensor


def alibi_slopes(n_head: int) -> list[float]:
    """The slope of each head: 2^(-8 h / n_head) for h = 1, 2, ..., n_head.

    If `n_head` is not a power of two, the slopes follow the authors: those for the power of two below it, then every
    other slope for the power of two above it.
    """
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2.0 ** (-8 * h / below) for h in range(1, below + 1)]
    between = [2.0 ** (-8 * h / (2 * below)) for h in range(1, 2 * below, 2)]
    return slopes + between[: n_head - below]


def alibi_columns(position_ids_BT: torch.Tensor, n_head: int, scaling: float) -> AlibiColumns:
    """The columns for rows at these positions.

    Args:
        position_ids_BT: whole numbers, starting at 0.
        scaling: the factor that attention applies to scores; it is divided out, so that it does not scale the bias.
    """
    shape = (position_ids_BT.shape[0], n_head, position_ids_BT.shape[1])
    device = position_ids_BT.device
    rise_H = torch.tensor(alibi_slopes(n_head), device=device) / scaling
    rise_BHT = rise_H[None, :, None].expand(shape)
    high_BHT = (position_ids_BT // _BASE).float()[:, None, :].expand(shape)
    low_BHT = (position_ids_BT % _BASE).float()[:, None, :].expand(shape)
    return AlibiColumns(
        torch.stack([_BASE * rise_BHT, rise_BHT, high_BHT, low_BHT], dim=-1),
        torch.stack([high_BHT, low_BHT, -_BASE * rise_BHT, -rise_BHT], dim=-1),
    )
