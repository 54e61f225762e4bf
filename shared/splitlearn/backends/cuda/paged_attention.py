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

from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cuda.block_table import BlockTable
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool

# by name in `PagedAttention.attend`; torch 2.11 knows neither block tables nor heads that share keys
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
        max_head_dim: numbers of a head, at most.
        head_dim_step: and a multiple of this.
        capability: of the device, at least.
    """

    attend: Callable[..., Any] = varlen_attn
    dtypes: tuple[torch.dtype, ...] = (torch.bfloat16, torch.float16)
    page_rows: int = 256
    max_head_dim: int = 256
    head_dim_step: int = 8
    capability: tuple[int, int] = (8, 0)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Arguments that the function would have to take, and does not in this version of torch."""
        takes = inspect.signature(self.attend).parameters
        return tuple(name for name in _KEYWORDS if name not in takes)

    def why_not(
        self,
        query_HTd: torch.Tensor,
        pages: Sequence[torch.Tensor],
        mask: AttentionMask | None,
        params: AttentionParams,
    ) -> str:
        """Why this layer's attention runs session by session, over rows gathered from their pages; "" if it need not.

        The only check of a layer. The function caps no scores, knows no sinks, reads keys and values as they are
        (so nothing is made of them first), sees all rows before a row or a window of them, and takes the dtypes and
        widths above.

        Args:
            pages: keys and values, [P, R, K, d] each.
        """
        keys, values = pages
        width = query_HTd.shape[2]
        if params.expand is not None:
            return "it makes keys and values out of latents each time"
        if params.softcap is not None or params.sinks is not None:
            return "it caps scores, or gives some of them to sinks"
        if mask is not None and mask.window is None:
            return "its mask is no sliding window"
        if not query_HTd.dtype == keys.dtype == values.dtype or keys.dtype not in self.dtypes:
            return f"its queries are {query_HTd.dtype}, its keys {keys.dtype}"
        if not width == keys.shape[3] == values.shape[3] or width > self.max_head_dim or width % self.head_dim_step:
            return f"its heads are {width}, {keys.shape[3]} and {values.shape[3]} numbers wide"
        return ""


class PagedAttention:
    """The rows of one step's sessions in a pool's pages; see `StepRows`.

    Args:
        table: on the pool's device.
        held: rows that each session has with the new ones; None where the step is to be replayed with other numbers
            in the table's tensors.
    """

    def __init__(self, pool: PagePool, kernel: PagedKernel, table: BlockTable, held: Sequence[int] | None) -> None:
        self._pool, self._kernel, self._table, self._held = pool, kernel, table, held

    @classmethod
    def of(cls, pool: PagePool, kernel: PagedKernel, sessions: Sequence[SequenceSlice[PagedKVCache]]) -> Self:
        """Reserves the pages of the slices."""
        pool.reserve(sessions)
        table = BlockTable.of(pool, sessions).to(pool.layout.device)
        return cls(pool, kernel, table, [position + count for _, position, count in sessions])

    def store(self, layer: int, keys_KTd: torch.Tensor, values_KTd: torch.Tensor) -> None:
        for tensor, rows_KTd in ((2 * layer, keys_KTd), (2 * layer + 1, values_KTd)):
            rows_TKd = rows_KTd.transpose(0, 1).to(self._pool.layout.dtype)
            self._pool.rows[tensor].index_copy_(0, self._table.slot_mapping, rows_TKd)

    def gather(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Gathered: a copy."""
        if self._held is None:
            raise CannotBeCaptured("rows are gathered from their pages, as many as there are")
        n_rows = self._held[index]
        own_P = self._table.block_table[index, : self._pool.pages_for(n_rows)]
        keys, values = (
            self._pool.pages[tensor].index_select(0, own_P).flatten(0, 1)[:n_rows].transpose(0, 1)
            for tensor in (2 * layer, 2 * layer + 1)
        )
        return keys, values

    def attend(
        self, layer: int, query_HTd: torch.Tensor, mask: AttentionMask | None, params: AttentionParams
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        keys, values = self._pool.pages[2 * layer], self._pool.pages[2 * layer + 1]
        reason = self._kernel.why_not(query_HTd, (keys, values), mask, params)
        if reason and self._held is None:
            raise CannotBeCaptured(f"layer {layer} attends session by session: {reason}")
        if reason:
            return None
        table = self._table
        output_THd = self._kernel.attend(
            query_HTd.transpose(0, 1),
            keys,
            values,
            table.cu_seqlens_q,
            table.cu_seqlens_k,
            table.max_seqlen_q,
            table.max_seqlen_k,
            scale=params.scaling,
            window_size=_window(mask, table.max_seqlen_q),
            enable_gqa=True,
            seqused_k=table.seqused_k,
            block_table=table.block_table,
            # left to itself it splits long histories, and with pages writes the result to wrong rows:
            # pytorch issue 194167
            num_splits=1,
        )
        return output_THd.contiguous(), ()


def _window(mask: AttentionMask | None, max_seqlen_q: int) -> tuple[int, int]:
    """AttentionParams many rows before itself and behind itself a row sees, counted from the last; -1: all."""
    if mask is not None and mask.window is not None:
        return mask.window - 1, 0
    # a session's last row sees all; said like this, heads that share keys are read once for all of them
    return (-1, -1) if max_seqlen_q == 1 else (-1, 0)
