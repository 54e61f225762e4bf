"""Which pages the sessions of one step have, as a kernel reads it: made once for all layers.

Shapes: S sessions, T rows of all sessions, P most pages of one.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from splitlearn.kv.pool import PagedKV, PagePool
from splitlearn.kv.sequence_slice import SequenceSlice


@dataclass(frozen=True)
class PageTable:
    """Where the rows of a step go, and where those are that they attend to.

    Attributes:
        slots: int64 [T]; of each new row its place among all rows of the pool.
        pages: int32 [S, P]; the pages of each session, in order.
        held: int32 [S]; rows that each session has with the new ones.
        new_ends: int32 [S + 1]; 0, and where the new rows of each session end, one behind the other.
        held_ends: int32 [S + 1]; the same for all rows that they have.
        most_new: rows that one session brings, at most.
        most_held: rows that one session has, at most.
    """

    slots: torch.Tensor
    pages: torch.Tensor
    held: torch.Tensor
    new_ends: torch.Tensor
    held_ends: torch.Tensor
    most_new: int
    most_held: int

    @classmethod
    def of(
        cls, pool: PagePool, sessions: Sequence[SequenceSlice[PagedKV]], n_sessions: int = 0, n_pages: int = 0
    ) -> "PageTable":
        """Of sessions that were placed, on the CPU.

        Args:
            sessions: the new rows of each.
            n_sessions: as many are made of them by adding ones that bring one row each, to the page of nobody.
            n_pages: room for so many pages of each session, at least.
        """
        n_padded = max(0, n_sessions - len(sessions))
        new = [count for _, _, count in sessions] + [1] * n_padded
        held = [position + count for _, position, count in sessions] + [1] * n_padded
        width = max(n_pages, pool.pages_for(max(held)))
        lists = [kv.page_list(position + count) for kv, position, count in sessions]
        slots = [
            pages[row // pool.page_rows] * pool.page_rows + row % pool.page_rows
            for pages, (_, position, count) in zip(lists, sessions, strict=True)
            for row in range(position, position + count)
        ]
        # where a session has no page, nobody's: every entry is a page that there is
        lines = [pages + [pool.nobody] * (width - len(pages)) for pages in lists] + [[pool.nobody] * width] * n_padded
        return cls(
            slots=torch.tensor(slots + [pool.nobody * pool.page_rows] * n_padded, dtype=torch.int64),
            pages=torch.tensor(lines, dtype=torch.int32),
            held=torch.tensor(held, dtype=torch.int32),
            new_ends=torch.tensor([0, *accumulate(new)], dtype=torch.int32),
            held_ends=torch.tensor([0, *accumulate(held)], dtype=torch.int32),
            most_new=max(new),
            most_held=max(n_pages * pool.page_rows, *held),
        )

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.slots, self.pages, self.held, self.new_ends, self.held_ends

    def to(self, device: torch.device) -> "PageTable":
        """A copy there."""
        slots, pages, held, new_ends, held_ends = (tensor.to(device, copy=True) for tensor in self.tensors)
        return replace(self, slots=slots, pages=pages, held=held, new_ends=new_ends, held_ends=held_ends)

    def copy_(self, other: "PageTable") -> None:
        """Takes over the numbers of a table of the same sizes, in place."""
        for tensor, new in zip(self.tensors, other.tensors, strict=True):
            tensor.copy_(new)
