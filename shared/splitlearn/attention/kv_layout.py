"""What one row of a session takes in memory, in one part."""

from dataclasses import dataclass
from functools import cached_property

import torch

from splitlearn.errors import PositionNotReached


@dataclass(frozen=True)
class KVLayout:
    """The keys and values of one row.

    Attributes:
        shapes: (heads, head dimension) of the keys, then of the values, of each layer in turn.
    """

    shapes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def row_bytes(self) -> int:
        return sum(heads * width for heads, width in self.shapes) * self.dtype.itemsize

    @cached_property
    def groups(self) -> dict[tuple[int, int], list[int]]:
        """Indices into `shapes` by shape. Tensors of one shape share an allocation, which saves views."""
        found: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(self.shapes):
            found.setdefault(shape, []).append(index)
        return found


def check_held(held: int, wanted: int) -> None:
    """Raises PositionNotReached if a session that holds `held` rows has to begin with its first `wanted`."""
    if wanted > held:
        raise PositionNotReached(f"there are keys and values of {held} rows, not of {wanted}: send them again from 0")
