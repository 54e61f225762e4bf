"""Attention of all sessions of a step to their pages in one call, as CUDA devices do it.

Shapes: S sessions, T rows of all sessions, N rows that one holds, H heads, K heads of keys, d width of a head,
P pages, R rows of a page.
"""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.nn.attention.varlen import varlen_attn

from splitlearn.kv.page_table import PageTable
from splitlearn.kv.pool import PagedKV, PagePool
from splitlearn.kv.sequence_slice import SequenceSlice
from splitlearn.kv.table import SessionTable
from splitlearn.steps.rows import How, MaskRule

# by name in `PageRows.attend`; torch 2.11 knows neither block tables nor heads that share keys
_KEYWORDS = ("scale", "window_size", "enable_gqa", "seqused_k", "block_table", "num_splits")


class CannotBeCaptured(RuntimeError):
    """A step that is to be replayed does something else each time."""


@dataclass(frozen=True)
class PagedKernel:
    """A function that attends to pages, and what it takes.

    The defaults are those of `varlen_attn` in torch 2.13, which calls FlashAttention 2 (torch's `flash_api.cpp`).

    Attributes:
        attend: called as `varlen_attn` is.
        dtypes: of queries, keys and values, which must be of one.
        page_rows: rows of a page; FlashAttention 2 takes multiples of 256.
        most_width: numbers of a head, at most.
        width_step: and a multiple of this.
        capability: of the device, at least.
    """

    attend: Callable[..., Any] = varlen_attn
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    page_rows: int = 256
    most_width: int = 256
    width_step: int = 8
    capability: tuple[int, int] = (8, 0)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Arguments that the function would have to take, and does not in this version of torch."""
        takes = inspect.signature(self.attend).parameters
        return tuple(name for name in _KEYWORDS if name not in takes)

    def why_not(self, query_HTd: torch.Tensor, pages: Sequence[torch.Tensor], rule: MaskRule | None, how: How) -> str:
        """Why this layer's attention runs session by session, over rows gathered from their pages; "" if it need not.

        The one place that decides it. The function caps no scores, knows no sinks, reads keys and values as they lie
        (so nothing is made of them first), sees all rows before a row or a window of them, and takes the dtypes and
        widths above.

        Args:
            pages: keys and values, [P, R, K, d] each.
        """
        keys, values = pages
        width = query_HTd.shape[2]
        if how.expand is not None:
            return "it makes keys and values out of latents each time"
        if how.softcap is not None or how.sinks is not None:
            return "it caps scores, or gives some of them to sinks"
        if rule is not None and rule.window is None:
            return "its mask is no sliding window"
        if not query_HTd.dtype == keys.dtype == values.dtype or keys.dtype not in self.dtypes:
            return f"its queries are {query_HTd.dtype}, its keys {keys.dtype}"
        if not width == keys.shape[3] == values.shape[3] or width > self.most_width or width % self.width_step:
            return f"its heads are {width}, {keys.shape[3]} and {values.shape[3]} numbers wide"
        return ""


class PageRows:
    """The rows of one step's sessions in a pool's pages; see `StepRows`.

    Args:
        table: on the pool's device.
        held: rows that each session has with the new ones; None where the step is to be replayed with other numbers
            in the table's tensors.
    """

    table: SessionTable | None = None

    def __init__(self, pool: PagePool, kernel: PagedKernel, table: PageTable, held: Sequence[int] | None) -> None:
        self._pool, self._kernel, self._table, self._held = pool, kernel, table, held

    @classmethod
    def of(cls, pool: PagePool, kernel: PagedKernel, sessions: Sequence[SequenceSlice[PagedKV]]) -> Self:
        """Reserves the pages of the slices."""
        pool.place(sessions)
        table = PageTable.of(pool, sessions).to(pool.layout.device)
        return cls(pool, kernel, table, [position + count for _, position, count in sessions])

    def keep(self, layer: int, keys_KTd: torch.Tensor, values_KTd: torch.Tensor) -> None:
        for tensor, rows_KTd in ((2 * layer, keys_KTd), (2 * layer + 1, values_KTd)):
            rows_TKd = rows_KTd.transpose(0, 1).to(self._pool.layout.dtype)
            self._pool.rows[tensor].index_copy_(0, self._table.slots, rows_TKd)

    def held(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gathered: a copy."""
        if self._held is None:
            raise CannotBeCaptured("rows are gathered from their pages, as many as there are")
        n_rows = self._held[index]
        own_P = self._table.pages[index, : self._pool.pages_for(n_rows)]
        keys, values = (
            self._pool.pages[tensor].index_select(0, own_P).flatten(0, 1)[:n_rows].transpose(0, 1)
            for tensor in (2 * layer, 2 * layer + 1)
        )
        return keys, values

    def attend(
        self, layer: int, query_HTd: torch.Tensor, rule: MaskRule | None, how: How
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        keys, values = self._pool.pages[2 * layer], self._pool.pages[2 * layer + 1]
        reason = self._kernel.why_not(query_HTd, (keys, values), rule, how)
        if reason and self._held is None:
            raise CannotBeCaptured(f"layer {layer} attends session by session: {reason}")
        if reason:
            return None
        table = self._table
        output_THd = self._kernel.attend(
            query_HTd.transpose(0, 1),
            keys,
            values,
            table.new_ends,
            table.held_ends,
            table.most_new,
            table.most_held,
            scale=how.scaling,
            window_size=_window(rule, table.most_new),
            enable_gqa=True,
            seqused_k=table.held,
            block_table=table.pages,
            # left to itself it splits long histories, and with pages writes the result to wrong rows:
            # pytorch issue 194167
            num_splits=1,
        )
        return output_THd.contiguous(), ()


def _window(rule: MaskRule | None, most_new: int) -> tuple[int, int]:
    """How many rows before itself and behind itself a row sees, counted from the last; -1: all."""
    if rule is not None and rule.window is not None:
        return rule.window - 1, 0
    # a session's last row sees all; said like this, heads that share keys are read once for all of them
    return (-1, -1) if most_new == 1 else (-1, 0)
