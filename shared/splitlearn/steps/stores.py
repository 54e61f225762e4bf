"""Where all sessions of a part keep their rows: each in pieces of its own, or all in the pages of one pool."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from splitlearn.errors import NoRoom
from splitlearn.kv.budget import free_bytes
from splitlearn.kv.page_budget import PageBudget
from splitlearn.kv.pool import PagedKV, PagePool
from splitlearn.kv.sequence_slice import SequenceSlice
from splitlearn.kv.store import KVLayout, SessionKV
from splitlearn.steps.graphs import Capture, DecodeGraphs, Forward
from splitlearn.steps.paged import PagedKernel, PageRows
from splitlearn.steps.rows import PieceRows, StepRows


class Store(Protocol):
    """Makes the rooms of sessions, and says in each step where their rows are.

    What a session reads is what it has written: no room is read past the rows that were placed in it, whatever the
    memory behind them held before.
    """

    def page_budget(self, page_size: int) -> PageBudget:
        """The pages that there is memory for, of `page_size` rows unless the store has a size of its own."""

    def new_kv(self, max_length: int | None) -> Any:
        """Keys and values of a session of at most `max_length` rows."""

    def rows(self, sessions: Sequence[SequenceSlice[Any]]) -> StepRows:
        """Reserves room for a step's rows: truncates each session to its slice's start, and appends the slice."""

    def release(self, kv: Any, n_rows: int) -> None:
        """As `Runner.release`."""

    def graphs(self, forward: Forward, max_length: int | None) -> DecodeGraphs | None:
        """What replays steps of one row per session; None where nothing does."""


@dataclass(frozen=True)
class Pieces:
    """Memory is taken as rows come, and given back with the last reference.

    Attributes:
        kv_bytes: that sessions may take together; None for no bound.
    """

    layout: KVLayout
    kv_bytes: int | None

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget.within(self.kv_bytes, self.layout.row_bytes, page_size)

    def new_kv(self, max_length: int | None) -> SessionKV:
        return SessionKV(self.layout, max_length)

    def rows(self, sessions: Sequence[SequenceSlice[SessionKV]]) -> StepRows:
        return PieceRows(sessions)

    def release(self, kv: SessionKV, n_rows: int) -> None:
        pass

    def graphs(self, forward: Forward, max_length: int | None) -> None:
        return None


class Pages:
    """All memory is taken at once.

    Args:
        kv_bytes: how much; None takes half of what is free.
        kernel: attends to the pages, and says how many rows they have.
        capture: makes graphs; None makes none.

    Raises:
        NoRoom: there is no room for two pages; one is nobody's.
    """

    def __init__(
        self,
        layout: KVLayout,
        kv_bytes: int | None,
        kernel: PagedKernel | None = None,
        capture: Capture | None = None,
    ) -> None:
        self._kernel = kernel or PagedKernel()
        self._capture = capture
        n_bytes = free_bytes(layout.device) // 2 if kv_bytes is None else kv_bytes
        n_pages = PageBudget.within(n_bytes, layout.row_bytes, self._kernel.page_rows).n_pages - 1
        if not n_pages:
            raise NoRoom(
                f"{n_bytes} bytes for keys and values hold a single page of {self._kernel.page_rows} rows, which has "
                "to stay nobody's; give more, or free memory"
            )
        self.pool = PagePool(layout, n_pages, self._kernel.page_rows)

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget(self.pool.total, self.pool.page_rows)

    def new_kv(self, max_length: int | None) -> PagedKV:
        return PagedKV(self.pool)

    def rows(self, sessions: Sequence[SequenceSlice[PagedKV]]) -> StepRows:
        return PageRows.of(self.pool, self._kernel, sessions)

    def release(self, kv: PagedKV, n_rows: int) -> None:
        kv.release(n_rows)

    def graphs(self, forward: Forward, max_length: int | None) -> DecodeGraphs | None:
        if self._capture is None:
            return None
        return DecodeGraphs(forward, self.pool, self._kernel, max_length, self._capture)
