"""Scales, and perhaps zeros, for each block of a weight: of the whole weight, a row, a group of columns or a tile.

Sources: https://github.com/vllm-project/compressed-tensors (strategies), and the FP8 checkpoints of DeepSeek and Qwen.
"""

from dataclasses import dataclass

import torch

from splitlearn.checkpoints.quantization.arithmetic import FLOATS, groups, spread
from splitlearn.checkpoints.quantization.weight import check
from splitlearn.checkpoints.weight_files import StoredTensor


@dataclass(frozen=True)
class Grid:
    """How a weight of `shape` is divided into blocks of `block` rows and columns; the last may be smaller.

    A weight has two axes, or three where the first counts experts, each of which has a grid of its own.
    """

    shape: tuple[int, ...]
    block: tuple[int, int]

    @property
    def counts(self) -> tuple[int, ...]:
        """The grid's own shape."""
        rows, columns = self.shape[-2:]
        return (*self.shape[:-2], -(-rows // self.block[0]), -(-columns // self.block[1]))

    def checked(self, scales: StoredTensor, dtypes: tuple[torch.dtype, ...] = FLOATS) -> StoredTensor:
        """The scales (or zeros) themselves; axes of length 1 at the end may be left out.

        Raises:
            BadCheckpoint: there are more or fewer of them than blocks.
        """
        shapes = [self.counts]
        while shapes[-1] and shapes[-1][-1] == 1:
            shapes.append(shapes[-1][:-1])
        return check(scales, dtypes, shapes)

    def spread(self, grid: torch.Tensor, start: int, stop: int) -> torch.Tensor:
        """The numbers of a grid for some rows, along the weight's first axis, as float32; last axis may be 1."""
        rows, columns = self.shape[-2:]
        grid = grid.reshape(self.counts)
        if len(self.shape) == 2:
            return spread(grid, groups(rows, self.block[0])[start:stop], groups(columns, self.block[1]))
        of_rows, of_columns = groups(rows, self.block[0]), groups(columns, self.block[1])
        return torch.stack([spread(each, of_rows, of_columns) for each in grid[start:stop]])
