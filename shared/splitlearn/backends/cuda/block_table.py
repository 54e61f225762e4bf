"""The pages of a step's sessions in the form that FlashAttention reads, made once for all layers.

Shapes: S sessions, T rows of all sessions, P pages of the longest session.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cuda.paged_kv import PagedKVCache, PagePool


@dataclass(frozen=True)
class BlockTable:
    """Where the rows of a step are stored, and which rows they attend to. Names are those of `varlen_attn` and vLLM.

    Attributes:
        slot_mapping: int64 [T]; the index of each new row among all rows of the pool.
        block_table: int32 [S, P]; the pages of each session, in order.
        seqused_k: int32 [S]; rows that each session holds, the new ones included.
        cu_seqlens_q: int32 [S + 1]; cumulative numbers of new rows, from 0.
        cu_seqlens_k: int32 [S + 1]; cumulative numbers of rows held, from 0.
        max_seqlen_q: the most new rows of a session.
        max_seqlen_k: the most rows that a session holds.
    """

    slot_mapping: torch.Tensor
    block_table: torch.Tensor
    seqused_k: torch.Tensor
    cu_seqlens_q: torch.Tensor
    cu_seqlens_k: torch.Tensor
    max_seqlen_q: int
    max_seqlen_k: int

    @classmethod
    def of(
        cls, pool: PagePool, sessions: Sequence[SequenceSlice[PagedKVCache]], n_sessions: int = 0, n_pages: int = 0
    ) -> "BlockTable":
        """The table of sessions whose rows are reserved, on the CPU.

        Args:
            sessions: the new rows of each.
            n_sessions: pads to this many sessions; each padding has one row, in the null page.
            n_pages: the least P.
        """
        n_padded = max(0, n_sessions - len(sessions))
        new = [count for _, _, count in sessions] + [1] * n_padded
        seqused_k = [position + count for _, position, count in sessions] + [1] * n_padded
        width = max(n_pages, pool.pages_for(max(seqused_k)))
        lists = [kv.first_pages(position + count) for kv, position, count in sessions]
        slot_mapping = [
            pages[row // pool.page_rows] * pool.page_rows + row % pool.page_rows
            for pages, (_, position, count) in zip(lists, sessions, strict=True)
            for row in range(position, position + count)
        ]
        # padded with the null page: every entry has to be a page of the pool
        lines = [pages + [pool.null_page] * (width - len(pages)) for pages in lists] + [
            [pool.null_page] * width
        ] * n_padded
        return cls(
            slot_mapping=torch.tensor(slot_mapping + [pool.null_page * pool.page_rows] * n_padded, dtype=torch.int64),
            block_table=torch.tensor(lines, dtype=torch.int32),
            seqused_k=torch.tensor(seqused_k, dtype=torch.int32),
            cu_seqlens_q=torch.tensor([0, *accumulate(new)], dtype=torch.int32),
            cu_seqlens_k=torch.tensor([0, *accumulate(seqused_k)], dtype=torch.int32),
            max_seqlen_q=max(new),
            max_seqlen_k=max(n_pages * pool.page_rows, *seqused_k),
        )

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        return self.slot_mapping, self.block_table, self.seqused_k, self.cu_seqlens_q, self.cu_seqlens_k

    def to(self, device: torch.device) -> "BlockTable":
        """A copy there."""
        slot_mapping, block_table, seqused_k, cu_seqlens_q, cu_seqlens_k = (
            tensor.to(device, copy=True) for tensor in self.tensors
        )
        return replace(
            self,
            slot_mapping=slot_mapping,
            block_table=block_table,
            seqused_k=seqused_k,
            cu_seqlens_q=cu_seqlens_q,
            cu_seqlens_k=cu_seqlens_k,
        )

    def copy_(self, other: "BlockTable") -> None:
        """Takes over the numbers of a table of the same sizes, in place."""
        for tensor, new in zip(self.tensors, other.tensors, strict=True):
            tensor.copy_(new)
