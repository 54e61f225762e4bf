"""The keys and values of one session, layer by layer, each in one piece so that attention reads them as they lie.

Memory is taken as it is found: behind the rows that a session has placed lie those of sessions that are gone. So a
store gives no row out, and lets none follow one, that was not placed in it.

Shapes: H heads, C capacity in rows, N rows held, d width of a head.
"""

from dataclasses import dataclass
from functools import cached_property

import torch

from splitlearn.errors import PositionNotReached
from splitlearn.torch_private import copy_all

_FIRST_ROWS = 64


@dataclass(frozen=True)
class KVLayout:
    """What one row of a session takes in one part.

    Attributes:
        shapes: (heads, width) of the keys, then of the values, of each layer in turn.
    """

    shapes: tuple[tuple[int, int], ...]
    dtype: torch.dtype
    device: torch.device

    @property
    def row_bytes(self) -> int:
        return sum(heads * width for heads, width in self.shapes) * self.dtype.itemsize

    @cached_property
    def groups(self) -> dict[tuple[int, int], list[int]]:
        """The indices in `shapes` of all that are alike: they lie in one tensor, which saves views."""
        found: dict[tuple[int, int], list[int]] = {}
        for index, shape in enumerate(self.shapes):
            found.setdefault(shape, []).append(index)
        return found


class SessionKV:
    """Grows as rows are placed, by doubling up to `max_length`. Memory that no row was written to is not resident.

    Args:
        max_length: rows that will ever be placed; None if that is not known.
    """

    def __init__(self, layout: KVLayout, max_length: int | None = None) -> None:
        self.layout = layout
        self.n_rows = 0
        self._max_length = max_length
        self._capacity = 0
        self._blocks: list[torch.Tensor] = []

    def __repr__(self) -> str:
        return f"<SessionKV {self.n_rows} rows, room for {self._capacity}>"

    @property
    def block(self) -> torch.Tensor | None:
        """All tensors as they lie, [tensors, H, C, d]; None if they differ in shape, or nothing was placed."""
        return self._blocks[0] if len(self._blocks) == 1 else None

    def place(self, position: int, count: int) -> None:
        """Keeps the first `position` rows and makes room for `count` more.

        Raises:
            PositionNotReached: it holds fewer than `position`.
        """
        check_held(self.n_rows, position)
        self._reserve(position + count)
        self.n_rows = position + count

    def views(self, start: int, count: int) -> list[torch.Tensor]:
        """Rows from `start` on, [H, count, d] for each of the layout's shapes."""
        groups = self.layout.groups
        if len(groups) == 1:
            return list(self._blocks[0].narrow(2, start, count).unbind(0))
        views: list[torch.Tensor] = [torch.empty(0)] * len(self.layout.shapes)
        for block, indices in zip(self._blocks, groups.values(), strict=True):
            for index, view in zip(indices, block.narrow(2, start, count).unbind(0), strict=True):
                views[index] = view
        return views

    def truncate(self, position: int) -> None:
        """Keeps at most the first `position` rows."""
        self.n_rows = min(self.n_rows, position)

    @torch.inference_mode()
    def copy_from(self, other: "SessionKV", count: int) -> None:
        """Takes over the first `count` rows of another session with the same layout.

        Raises:
            PositionNotReached: it holds fewer.
        """
        check_held(other.n_rows, count)
        self.place(0, count)
        self.n_rows = 0
        copy_all(self.views(0, count), other.views(0, count))
        self.n_rows = count

    def _reserve(self, n_rows: int) -> None:
        if n_rows <= self._capacity:
            return
        doubled = max(_FIRST_ROWS, n_rows, 2 * self._capacity)
        capacity = doubled if self._max_length is None else max(n_rows, min(doubled, self._max_length))
        grown = [
            torch.empty(len(indices), heads, capacity, width, dtype=self.layout.dtype, device=self.layout.device)
            for (heads, width), indices in self.layout.groups.items()
        ]
        for old, new in zip(self._blocks, grown, strict=False):
            new[:, :, : self.n_rows] = old[:, :, : self.n_rows]
        self._blocks, self._capacity = grown, capacity


def check_held(held: int, wanted: int) -> None:
    """Raises PositionNotReached if a store that holds `held` rows is asked for its first `wanted`."""
    if wanted > held:
        raise PositionNotReached(f"there are keys and values of {held} rows, not of {wanted}: send them again from 0")
