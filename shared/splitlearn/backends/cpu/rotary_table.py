"""Cosines and sines by position: a model's own module computes them once for each block of positions.

Shapes: T rows, P positions of a block, n numbers of a head that are rotated.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Final

import torch

Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines [1, T, n]."""

_BLOCK: Final = 1024


class RotaryTable:
    """Holds the blocks that sessions have reached, 2 * n numbers for each position.

    Args:
        rotate: gives the rotation of rows [1, T, D] at positions [1, T]; that of a position is the same whatever other
            positions below `n_positions` come with it.
        row_1TD: any row [1, 1, D], which says the dtype.
        n_positions: no position is more than one less; None for no end.
    """

    def __init__(
        self,
        rotate: Callable[[torch.Tensor, torch.Tensor], Rotation],
        row_1TD: torch.Tensor,
        n_positions: int | None,
    ) -> None:
        self._rotate, self._row_1TD, self._n_positions = rotate, row_1TD, n_positions
        self._blocks: dict[int, Rotation] = {}

    def cos_sin(self, ranges: Iterable[tuple[int, int]]) -> Rotation:
        """Those of rows at these ranges of positions (the first, and how many), one behind the other."""
        found = [each for start, count in ranges for each in self._views(start, count)]
        if len(found) == 1:
            return found[0]
        cosines, sines = zip(*found, strict=True)
        return torch.cat(cosines, 1), torch.cat(sines, 1)

    def _views(self, start: int, count: int) -> Iterator[Rotation]:
        end = start + count
        while start < end:
            index, first = divmod(start, _BLOCK)
            last = min(first + end - start, _BLOCK)
            cosines, sines = self._block(index)
            yield cosines[:, first:last], sines[:, first:last]
            start += last - first

    def _block(self, index: int) -> Rotation:
        found = self._blocks.get(index)
        if found is None:
            start = index * _BLOCK
            end = start + _BLOCK if self._n_positions is None else min(start + _BLOCK, self._n_positions)
            cosines, sines = self._rotate(self._row_1TD, torch.arange(start, end)[None])
            found = self._blocks[index] = cosines.contiguous(), sines.contiguous()
        return found
