"""What formats share: codes packed into integers, and scales that hold for blocks of a weight.

Shape suffixes: O rows of a weight (outputs), I its columns (inputs), G rows of a grid of scales, H its columns.
"""

import torch

FLOATS = (torch.float32, torch.bfloat16, torch.float16)


def unpack(words: torch.Tensor, bits: int) -> torch.Tensor:
    """Codes out of integers along the last axis, those of the lowest bits first.

    Args:
        words: integers of any size, in the order of bytes of the file (little-endian).
        bits: of a code: 1, 2, 4 or 8.

    Returns:
        uint8 `[..., words * bits of a word / bits]`.
    """
    packed = words.contiguous().view(torch.uint8)
    if bits == 8:
        return packed
    shifts = torch.arange(0, 8, bits, dtype=torch.uint8)
    codes = torch.bitwise_right_shift(packed.unsqueeze(-1), shifts)
    return codes.bitwise_and_(2**bits - 1).flatten(-2)


def groups(size: int, group: int) -> torch.Tensor:
    """Which group each of `size` elements is in, if groups of `group` elements follow one another."""
    return torch.arange(size) // group


def spread(grid_GH: torch.Tensor, rows_O: torch.Tensor, columns_I: torch.Tensor) -> torch.Tensor:
    """A grid's numbers as float32 `[O, I]`, or `[O, 1]` where it has one column.

    Args:
        rows_O: the row of the grid for each row of the result.
        columns_I: likewise.
    """
    some_OH = grid_GH.index_select(0, rows_O).to(torch.float32)
    return some_OH if some_OH.shape[1] == 1 else some_OH.index_select(1, columns_I)
