"""Steps in which every session brings one row, replayed from CUDA graphs that were captured of them.

Shapes: S sessions, B sessions of a bucket, D hidden size, V vocabulary.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.attention.backend import Forward
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cuda.block_table import BlockTable
from splitlearn.backends.cuda.paged_attention import PagedAttention, PagedKernel
from splitlearn.backends.cuda.paged_kv import PagePool

BUCKETS = (1, 2, 4, 8, 16, 32, 64)
_WARM_UPS = 2

Capture = Callable[[Callable[[], torch.Tensor]], Callable[[], torch.Tensor]]
"""Makes of a function one that does the same to the same memory once more, and returns the same tensor."""


def bucket_for(n_sessions: int) -> int | None:
    """The smallest that holds so many; None if none does."""
    return next((bucket for bucket in BUCKETS if bucket >= n_sessions), None)


@dataclass
class _Decode:
    """The step of one bucket: its inputs, which stay where they are, and what replays it. Positions are [1, B]."""

    rows: torch.Tensor
    positions: torch.Tensor
    table: BlockTable
    replay: Callable[[], torch.Tensor]

    def fill(self, rows: torch.Tensor, table: BlockTable) -> None:
        """Copies the rows of the sessions; padding keeps older rows, at position 0 of the null page."""
        self.table.copy_(table)
        self.positions[0].copy_(table.seqused_k - 1)
        self.rows[: rows.shape[0]].copy_(rows)


class DecodeGraphs:
    """Captures each bucket's step when it is first needed. Used on the thread that runs steps.

    Args:
        forward: a step; must do the same each time, but for the numbers in its tensors.
        max_length: that a session holds; None if only the pool bounds it.
        capture: of CUDA, or what stands for it.
    """

    def __init__(
        self, forward: Forward, pool: PagePool, kernel: PagedKernel, max_length: int | None, capture: Capture
    ) -> None:
        self._forward, self._pool, self._kernel, self._capture = forward, pool, kernel, capture
        self._n_pages = min(pool.total, pool.total if max_length is None else pool.pages_for(max_length))
        self._steps: dict[int, _Decode] = {}
        self.reason: str | None = None
        """Why steps run without graphs; None as long as they do not."""

    def run(self, rows: torch.Tensor, sessions: Sequence[SequenceSlice[Any]]) -> torch.Tensor | None:
        """Appends a row to each session: [S, D] or [S, V], until the next call. None: run it without.

        Args:
            rows: token ids [S] or hidden states [S, D].
            sessions: a slice of one row each.
        """
        bucket = bucket_for(len(sessions))
        if self.reason is not None or bucket is None:
            return None
        self._pool.reserve(sessions)
        table = BlockTable.of(self._pool, sessions, bucket, self._n_pages)
        if table.block_table.shape[1] > self._n_pages:
            return None
        step = self._steps.get(bucket) or self._new(bucket, rows, table)
        if step is None:
            return None
        step.fill(rows, table)
        return step.replay()[: len(sessions)]

    def _new(self, bucket: int, rows: torch.Tensor, table: BlockTable) -> _Decode | None:
        """Captured with the numbers of the first step, which then runs as any other; None if it cannot be."""
        device = self._pool.layout.device
        own_table = table.to(device)
        own_rows = torch.zeros(bucket, *rows.shape[1:], dtype=rows.dtype, device=device)
        positions = torch.zeros(1, bucket, dtype=torch.int64, device=device)
        where = PagedAttention(self._pool, self._kernel, own_table, None)
        step = _Decode(own_rows, positions, own_table, lambda: self._forward(own_rows, positions, where))
        step.fill(rows, table)
        try:
            step.replay = self._capture(step.replay)
        except RuntimeError as error:
            # whatever it was: the same step runs without graphs next, and fails there if it has to
            self.reason = str(error).partition("\n")[0]
            logging.getLogger(__name__).warning("tokens are decoded without CUDA graphs: %s", self.reason)
            return None
        self._steps[bucket] = step
        return step


class CudaCapture:
    """Captures steps on one device, in a memory of their own that all of them share."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream: torch.cuda.Stream | None = None
        self._memory: Any = None

    def __call__(self, step: Callable[[], torch.Tensor]) -> Callable[[], torch.Tensor]:
        """Runs the step a few times first: libraries allocate what they need for good when they are first used."""
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.device(self._device):
            stream = self._stream = self._stream or torch.cuda.Stream()  # type: ignore[no-untyped-call]
            before = torch.cuda.current_stream()
            stream.wait_stream(before)
            try:
                # a capture that fails leaves its stream the current one; this puts it back
                with torch.cuda.stream(stream):
                    for _ in range(_WARM_UPS):
                        step()
                    with torch.cuda.graph(graph, self._memory, stream, capture_error_mode="thread_local"):
                        output = step()
            finally:
                before.wait_stream(stream)
        self._memory = graph.pool()

        def replay() -> torch.Tensor:
            graph.replay()
            return output

        return replay
