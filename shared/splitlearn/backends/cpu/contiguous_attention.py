"""Attention to contiguous keys and values, by our kernels where they can.

Shapes: T rows of all sessions, N rows that one session holds, H heads, K heads of keys, d head dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from splitlearn.attention.mask import AttentionMask
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cpu.attention_metadata import AttentionMetadata
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.torch_private import copy_all


@dataclass(frozen=True)
class VisibleRange:
    """What the rows of a step see under one mask.

    Attributes:
        first_T: the first row of its session that each row sees, int64; None: each sees all earlier rows.
        scattered: sessions with a row that sees something other than itself and one contiguous range before it.
    """

    first_T: torch.Tensor | None  # noqa: N815 - a shape
    scattered: tuple[int, ...]


class ContiguousAttention:
    """The `StepAttention` of sessions with contiguous caches.

    Args:
        sessions: truncated to their slices' starts; memory is reserved for the slices.

    Attributes:
        metadata: what our kernels read of the sessions; None where no kernel can.
    """

    def __init__(self, sessions: Sequence[SequenceSlice[ContiguousKVCache]]) -> None:
        self._sessions = sessions
        self._lengths = [count for _, _, count in sessions]
        self._gathered: dict[int, Sequence[torch.Tensor]] = {}
        # a step has few masks, and most layers share one
        self._visible: dict[AttentionMask | None, VisibleRange] = {}
        self._new_rows: list[Sequence[torch.Tensor]] = []
        for kv, position, count in sessions:
            kv.reserve(position, count)
        self.metadata = AttentionMetadata.of(sessions)
        if self.metadata is None:
            self._new_rows = [kv.views(position, count) for kv, position, count in sessions]

    def store(self, layer: int, keys_KTd: torch.Tensor, values_KTd: torch.Tensor) -> None:
        if self.metadata is not None:
            self.metadata.store(2 * layer, keys_KTd)
            self.metadata.store(2 * layer + 1, values_KTd)
            return
        targets = [views[2 * layer] for views in self._new_rows] + [views[2 * layer + 1] for views in self._new_rows]
        rows = [*torch.split(keys_KTd, self._lengths, 1), *torch.split(values_KTd, self._lengths, 1)]
        copy_all(targets, rows)

    def gather(self, index: int, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Views: nothing is copied, but where rows are held as levels."""
        kv, position, count = self._sessions[index]
        if index not in self._gathered:
            self._gathered[index] = kv.views(0, position + count)
        keys, values = (
            kv.layout.numbers(self._gathered[index][tensor], kv.layout.shapes[tensor][1])
            for tensor in (2 * layer, 2 * layer + 1)
        )
        return keys, values

    def stored_rows(self, layer: int) -> list[torch.Tensor]:
        """Keys and values of this step's rows as they are held, by session: views."""
        views = [kv.views(position, count) for kv, position, count in self._sessions]
        return [tensor for each in views for tensor in each[2 * layer : 2 * layer + 2]]

    def attend(
        self, layer: int, query_HTd: torch.Tensor, mask: AttentionMask | None, params: AttentionParams
    ) -> tuple[torch.Tensor, Sequence[int]] | None:
        """Sessions with rows that see more than one contiguous range are left out."""
        if self.metadata is None or params.expand is not None:
            return None
        visible = self.visible(mask)
        return self.metadata.attend(layer, query_HTd, visible.first_T, params), visible.scattered

    def visible(self, mask: AttentionMask | None) -> VisibleRange:
        """What the step's rows see under `mask`."""
        if mask not in self._visible:
            self._visible[mask] = VisibleRange(None, ()) if mask is None else self._visible_under(mask)
        return self._visible[mask]

    def _visible_under(self, mask: AttentionMask) -> VisibleRange:
        first = [mask.first_visible_rows(position, count) for _, position, count in self._sessions]
        scattered = tuple(index for index, each in enumerate(first) if each is None)
        known = [
            torch.zeros(n, dtype=torch.int64) if each is None else each
            for each, n in zip(first, self._lengths, strict=True)
        ]
        first_T = torch.cat(known)
        return VisibleRange(first_T if bool(first_T.any()) else None, scattered)
