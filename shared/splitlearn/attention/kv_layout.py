"""What one row of a session takes in memory, in one part.

Shapes: H heads, N rows, d width of a head, B bytes of a row of a head.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from splitlearn.errors import PositionNotReached

_VECTOR, _SCALE_BYTES = 16, 4


@dataclass(frozen=True)
class KVLayout:
    """The keys and values of one row.

    Attributes:
        shapes: (heads, head dimension) of the keys, then of the values, of each layer in turn.
        dtype: of keys and values as a model gives and takes them.
        is_int8: they are held as 8-bit levels, with a scale for each row of a head.
    """

    shapes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    device: torch.device
    is_int8: bool = False

    @property
    def row_bytes(self) -> int:
        return sum(heads * self.stored_width(width) for heads, width in self.shapes) * self.stored_dtype.itemsize

    @property
    def stored_dtype(self) -> torch.dtype:
        """Of the memory that rows are held in."""
        return torch.uint8 if self.is_int8 else self.dtype

    def stored_width(self, width: int) -> int:
        """How many numbers of `stored_dtype` a row of a head takes: levels fill whole vectors, and have a scale."""
        return -(-width // _VECTOR) * _VECTOR + _SCALE_BYTES if self.is_int8 else width

    def numbers(self, stored_HNB: torch.Tensor, width: int) -> torch.Tensor:
        """Rows [H, N, d] out of what they are held as: the same memory, or levels that are multiplied by scales."""
        if not self.is_int8:
            return stored_HNB
        scale_HN1 = stored_HNB[..., -_SCALE_BYTES:].contiguous().view(torch.float32)
        return (stored_HNB[..., :width].view(torch.int8) * scale_HN1).to(self.dtype)

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
