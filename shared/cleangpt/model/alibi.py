"""ALiBi as columns of queries and keys: positions that every attention kernel takes, because it sees no bias.

"Train Short, Test Long" (ICLR 2022, arXiv 2108.12409) adds m_h (j - i) to the score of query i and key j, with a slope
m_h for each head. Here four columns more in queries and keys make the same sum:

    [256 r, r, i div 256, i mod 256] . [j div 256, j mod 256, -256 r, -r] = r (j - i),   r = m_h / scaling

Keys keep their positions in the cache, so nothing is to be added for cached rows, padding or sessions in one batch.
Every column but r is a whole number below 257, exact in bfloat16 as well, for texts of up to 65 536 tokens.

Shapes: B sequences, H heads, T rows.
"""

import math
from dataclasses import dataclass

import torch

N_COLUMNS = 4
_BASE = 256


@dataclass(frozen=True)
class AlibiColumns:
    """What queries and keys get behind their own columns, both [B or 1, H, T, 4]."""

    query: torch.Tensor
    key: torch.Tensor


def alibi_slopes(n_head: int) -> list[float]:
    """The slope of each head: 2^(-8 h / n_head) for h = 1, 2, ..., n_head.

    Where `n_head` is no power of two, as the authors do: the slopes of the power of two below it, and then every other
    slope of the power of two above it.
    """
    below = 2 ** math.floor(math.log2(n_head))
    slopes = [2.0 ** (-8 * h / below) for h in range(1, below + 1)]
    between = [2.0 ** (-8 * h / (2 * below)) for h in range(1, 2 * below, 2)]
    return slopes + between[: n_head - below]


def alibi_columns(position_ids_BT: torch.Tensor, n_head: int, scaling: float) -> AlibiColumns:
    """The columns for rows at these positions.

    Args:
        position_ids_BT: whole numbers from 0 on.
        scaling: what the attention multiplies scores with, which the bias is not to be multiplied with.
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
