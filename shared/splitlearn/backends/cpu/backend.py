"""The CPU's `AttentionBackend`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch

from splitlearn.attention.backend import Forward, FusionReport
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.backends.cpu.experts import count_experts
from splitlearn.backends.cpu.fused_attention import fuse_attention
from splitlearn.backends.cpu.fused_layers import fuse_layers
from splitlearn.backends.cpu.fused_part import FusedPart, fusible
from splitlearn.model.part import Part


@dataclass
class ContiguousBackend:
    """Keys and values are contiguous; memory is allocated as rows come, and freed with the last reference.

    It also serves other devices, where attention has no kernel that reads pages; no module is fused there.

    Attributes:
        kv_bytes: that all sessions may take together; None for no bound.
    """

    layout: KVLayout
    kv_bytes: int | None
    _part: FusedPart | None = field(default=None, init=False)

    @property
    def row_bytes(self) -> int:
        return self.layout.row_bytes

    def page_budget(self, page_size: int) -> PageBudget:
        return PageBudget.within(self.kv_bytes, self.row_bytes, page_size)

    def new_kv(self, max_length: int | None) -> ContiguousKVCache:
        return ContiguousKVCache(self.layout, max_length)

    def begin_step(self, sessions: Sequence[SequenceSlice[ContiguousKVCache]]) -> ContiguousAttention:
        return ContiguousAttention(sessions)

    def release(self, kv: ContiguousKVCache, n_rows: int) -> None:
        pass

    def fuse(self, part: Part, run: Callable[[], list[torch.Tensor]]) -> FusionReport:
        """First attention, then layers, whose attention has to be fused, then the part, whose layers have to be."""
        n_attention = fuse_attention(part, run)
        n_layers = fuse_layers(part, run)
        expected = run()
        self._part = fusible(part, run)
        if not all(map(torch.equal, run(), expected)):
            self._part = None
        return FusionReport(len(part.layers), n_attention, n_layers, self._part is not None, *count_experts(part))

    def prepare_decode(self, forward: Forward, max_length: int | None) -> None:
        pass

    def run_step(
        self,
        rows: torch.Tensor,
        sessions: Sequence[SequenceSlice[ContiguousKVCache]],
        wanted: Sequence[int] | None,
        position_offset: int,
        n_likeliest: int | None,
    ) -> torch.Tensor | None:
        if self._part is None:
            return None
        return self._part.run(rows, sessions, wanted, position_offset, n_likeliest)
