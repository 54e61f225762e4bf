"""The keys and values of one session, contiguous in each layer, so that attention reads them without a copy.

Memory is not cleared: behind a session's rows there may be rows of sessions that were closed. So no row is read, and
none may follow one, that was not reserved here.

Shapes: H heads, C capacity in rows, N rows held, d width of a head, B bytes of a row of a head.
"""

import torch

from splitlearn.attention.kv_layout import KVLayout, check_held
from splitlearn.torch_private import copy_all

_FIRST_ROWS = 64


class ContiguousKVCache:
    """Grows as rows are reserved, by doubling up to `max_length`. Memory that no row was written to is not resident.

    Args:
        max_length: rows that it will ever hold; None if that is not known.
    """

    def __init__(self, layout: KVLayout, max_length: int | None = None) -> None:
        self.layout = layout
        self.n_rows = 0
        self._max_length = max_length
        self._capacity = 0
        self._blocks: list[torch.Tensor] = []

    def __repr__(self) -> str:
        return f"<ContiguousKVCache {self.n_rows} rows, capacity {self._capacity}>"

    @property
    def block(self) -> torch.Tensor | None:
        """All tensors in one, [tensors, H, C, d or B]; None if they differ in shape, or nothing was reserved."""
        return self._blocks[0] if len(self._blocks) == 1 else None

    def reserve(self, position: int, count: int) -> None:
        """Keeps the first `position` rows and reserves memory for `count` more.

        Raises:
            PositionNotReached: it holds fewer than `position`.
        """
        check_held(self.n_rows, position)
        self._grow(position + count)
        self.n_rows = position + count

    def views(self, start: int, count: int) -> list[torch.Tensor]:
        """Rows from `start` on as they are held, [H, count, d] or [H, count, B] for each of the layout's shapes."""
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
    def copy_from(self, other: "ContiguousKVCache", count: int) -> None:
        """Takes over the first `count` rows of another session with the same layout.

        Raises:
            PositionNotReached: it holds fewer.
        """
        check_held(other.n_rows, count)
        self.reserve(0, count)
        self.n_rows = 0
        copy_all(self.views(0, count), other.views(0, count))
        self.n_rows = count

    def _grow(self, n_rows: int) -> None:
        if n_rows <= self._capacity:
            return
        doubled = max(_FIRST_ROWS, n_rows, 2 * self._capacity)
        capacity = doubled if self._max_length is None else max(n_rows, min(doubled, self._max_length))
        grown = [
            torch.empty(
                (len(indices), heads, capacity, self.layout.stored_width(width)),
                dtype=self.layout.stored_dtype,
                device=self.layout.device,
            )
            for (heads, width), indices in self.layout.groups.items()
        ]
        for old, new in zip(self._blocks, grown, strict=False):
            new[:, :, : self.n_rows] = old[:, :, : self.n_rows]
        self._blocks, self._capacity = grown, capacity
