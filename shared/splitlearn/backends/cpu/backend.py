"""The CPU's `AttentionBackend`."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from splitlearn.attention.backend import Forward, FusionReport
from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.page_budget import PageBudget
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cpu.contiguous_attention import ContiguousAttention
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.backends.cpu.experts import count_experts
from splitlearn.backends.cpu.fused_attention import fuse_attention
from splitlearn.backends.cpu.fused_decoder import fuse_decoder
from splitlearn.backends.cpu.fused_layers import fuse_layers
from splitlearn.model.part import Part


@dataclass(frozen=True)
class ContiguousBackend:
    """Keys and values are contiguous; memory is allocated as rows come, and freed with the last reference.

    It also serves other devices, where attention has no kernel that reads pages; no module is fused there.

    Attributes:
        kv_bytes: that all sessions may take together; None for no bound.
    """

    layout: KVLayout
    kv_bytes: int | None

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
        """First attention, then layers, whose attention has to be fused, then the decoder, whose layers have to be."""
        n_attention = fuse_attention(part, run)
        n_layers = fuse_layers(part, run)
        is_decoder_fused = fuse_decoder(part.model.get_submodule(part.layout.decoder), run)
        return FusionReport(len(part.layers), n_attention, n_layers, is_decoder_fused, *count_experts(part))

    def prepare_decode(self, forward: Forward, max_length: int | None) -> None:
        pass

    def decode(self, rows: torch.Tensor, sessions: Sequence[SequenceSlice[ContiguousKVCache]]) -> None:
        return None
