"""Where the sessions of one step keep their rows, as our kernels read it.

Shapes: S sessions, T rows of all sessions, H heads, K heads of keys, d width of a head.
"""

from collections.abc import Sequence

import torch

from splitlearn.kernels import Kernels, kernels
from splitlearn.kv.store import SessionKV

_KEYS_AT_ONCE = 32
_PANEL = 16


class SessionTable:
    """Of each session in the step: its block, the block's strides, rows held, rows that are new, where those begin.

    The kernels write to memory of the sessions, which must live as long as the table.
    """

    def __init__(self, library: Kernels, sessions: Sequence[tuple[SessionKV, int, int]], n_kv_heads: int) -> None:
        self._library = library
        self._most_rows = max(position + count for _, position, count in sessions)
        self._panels: tuple[torch.Tensor, torch.Tensor] | None = None
        self._n_kv_heads = n_kv_heads
        lines, first = [], 0
        for kv, position, count in sessions:
            block = kv.block
            if block is None:
                raise RuntimeError(f"{kv} has no block: ask of() for a table")
            lines.append((block.data_ptr(), block.stride(0), block.stride(1), position + count, count, first))
            first += count
        self._lines_S6 = torch.tensor(lines, dtype=torch.int64)

    @classmethod
    def of(cls, sessions: Sequence[tuple[SessionKV, int, int]]) -> "SessionTable | None":
        """Of sessions, each with the rows that it keeps and those that it brings; None where no kernel reads theirs."""
        library = kernels()
        if library is None or not sessions:
            return None
        layout = sessions[0][0].layout
        is_read = layout.dtype is torch.bfloat16 and layout.device.type == "cpu" and len(layout.groups) == 1
        is_read = is_read and layout.shapes[0][1] % 2 == 0
        return cls(library, sessions, layout.shapes[0][0]) if is_read else None

    def keep(self, tensor: int, rows_KTd: torch.Tensor) -> None:
        """Puts the step's rows of one of the layout's tensors where the sessions keep theirs."""
        rows_KTd = rows_KTd if rows_KTd.stride(2) == 1 else rows_KTd.contiguous()
        heads, _, width = rows_KTd.shape
        strides = rows_KTd.stride(0), rows_KTd.stride(1)
        self._library.keep(*self._lines, tensor, rows_KTd.data_ptr(), *strides, heads, width)

    def attend(self, layer: int, query_HTd: torch.Tensor, starts: Sequence[int], scaling: float | None) -> torch.Tensor:
        """Outputs [T, H, d] of the sessions that bring one row; those of the others are not yet written.

        Args:
            starts: of each session the first row that its row sees.
        """
        query_HTd = query_HTd if query_HTd.stride(2) == 1 else query_HTd.contiguous()
        heads, n_rows, width = query_HTd.shape
        output_THd = query_HTd.new_empty(n_rows, heads, width)
        starts_S = torch.tensor(starts, dtype=torch.int64) if any(starts) else None
        self._library.attend(
            *self._lines,
            layer,
            None if starts_S is None else starts_S.data_ptr(),
            query_HTd.data_ptr(),
            query_HTd.stride(0),
            query_HTd.stride(1),
            output_THd.data_ptr(),
            heads,
            self._n_kv_heads,
            width,
            width**-0.5 if scaling is None else scaling,
            torch.get_num_threads(),
        )
        return output_THd

    def attend_prompt(
        self, layer: int, index: int, query_HTd: torch.Tensor, output_THd: torch.Tensor, scaling: float | None
    ) -> None:
        """Fills the outputs of the rows of one session; each sees those before it and itself."""
        query_HTd = query_HTd if query_HTd.stride(2) == 1 else query_HTd.contiguous()
        heads, _, width = query_HTd.shape
        if self._panels is None:
            # room for the longest session, used by one after the other
            n_rows = self._n_kv_heads * _multiple(self._most_rows, _KEYS_AT_ONCE)
            columns = _multiple(width, _PANEL)
            self._panels = query_HTd.new_empty(n_rows * width), query_HTd.new_empty(n_rows * columns)
        keys, values = self._panels
        self._library.attend_prompt(
            self._lines_S6.data_ptr(),
            index,
            layer,
            query_HTd.data_ptr(),
            query_HTd.stride(0),
            query_HTd.stride(1),
            output_THd.data_ptr(),
            heads,
            self._n_kv_heads,
            width,
            width**-0.5 if scaling is None else scaling,
            keys.data_ptr(),
            values.data_ptr(),
            torch.get_num_threads(),
        )

    @property
    def _lines(self) -> tuple[int, int]:
        return self._lines_S6.data_ptr(), self._lines_S6.shape[0]


def _multiple(n: int, of: int) -> int:
    return -(-n // of) * of
