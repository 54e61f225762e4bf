"""CUDA's `AttentionBackend`."""

from collections.abc import Callable, Sequence

import torch

from splitlearn.attention.backend import Forward, FusionReport
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cuda.graphs import Capture, DecodeGraphs
from splitlearn.backends.cuda.paged_attention import PagedAttention, PagedKernel
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool
from splitlearn.backends.memory import free_bytes
from splitlearn.errors import NoRoom
from splitlearn.model.part import Part


class PagedBackend:
    """Keys and values lie in the pages of one pool, whose memory is allocated at once.

    Args:
        kv_bytes: size of the pool; None takes half of the device's free memory.
        kernel: attends to the pages, and says how many rows a page has.
        capture: makes CUDA graphs of decode steps; None makes none.

    Raises:
        NoRoom: the memory does not hold two pages; one is the null page.
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
        self._graphs: DecodeGraphs | None = None
        n_bytes = free_bytes(layout.device) // 2 if kv_bytes is None else kv_bytes
        n_pages = PageBudget.within(n_bytes, layout.row_bytes, self._kernel.page_rows).n_pages - 1
        if not n_pages:
            raise NoRoom(
                f"{n_bytes} bytes for keys and values hold a single page of {self._kernel.page_rows} rows, and one "
                "page is the null page, which no session may have; give more, or free memory"
            )
        self._row_bytes = layout.row_bytes
        self.pool = PagePool(layout, n_pages, self._kernel.page_rows)

    @property
    def row_bytes(self) -> int:
        return self._row_bytes

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget(self.pool.total, self.pool.page_rows)

    def new_kv(self, max_length: int | None) -> PagedKVCache:
        return PagedKVCache(self.pool)

    def begin_step(self, sessions: Sequence[SequenceSlice[PagedKVCache]]) -> PagedAttention:
        return PagedAttention.of(self.pool, self._kernel, sessions)

    def release(self, kv: PagedKVCache, n_rows: int) -> None:
        kv.release(n_rows)

    def fuse(self, part: Part, run: Callable[[], list[torch.Tensor]]) -> FusionReport:
        """Nothing: decode steps are replayed from graphs instead."""
        return FusionReport(len(part.layers))

    def prepare_decode(self, forward: Forward, max_length: int | None) -> None:
        if self._capture is not None:
            self._graphs = DecodeGraphs(forward, self.pool, self._kernel, max_length, self._capture)

    def run_step(
        self,
        rows: torch.Tensor,
        sessions: Sequence[SequenceSlice[PagedKVCache]],
        wanted: Sequence[int] | None,
        position_offset: int,
        n_likeliest: int | None,
    ) -> torch.Tensor | None:
        """From a graph, where all sessions bring one row."""
        if self._graphs is None or position_offset or any(each.length > 1 for each in sessions):
            return None
        found = self._graphs.run(rows, sessions)
        if found is None:
            return None
        # the next step overwrites this memory; one copy takes less time than one per session
        found = found.to("cpu", copy=True)
        return found if wanted is None or len(wanted) == len(sessions) else found[list(wanted)]
