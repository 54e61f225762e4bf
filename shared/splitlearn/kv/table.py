"""Where the sessions of one step keep their rows, as our kernels read it.

Shapes: S sessions, T rows of all sessions, H heads, K heads of keys, d width of a head.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.kernels import Kernels, kernels
from splitlearn.kernels.structs import (
    AttendCall,
    AttentionParams,
    Descriptor,
    Layers,
    LayersCall,
    RopeAndStoreCall,
    RowNorm,
    Session,
    StoreCall,
)
from splitlearn.kv.store import SessionKV


@dataclass(frozen=True)
class HeadNorms:
    """Root mean square norms of the heads of queries and keys; see `splitlearn.fused.NativeRMSNorm`."""

    queries_d: torch.Tensor
    keys_d: torch.Tensor
    epsilon: float
    adds_one: bool

    @property
    def described(self) -> tuple[RowNorm, RowNorm]:
        """As the kernels read them: of queries and of keys."""
        queries, keys = (
            RowNorm(weight_d.data_ptr(), self.epsilon, self.adds_one) for weight_d in (self.queries_d, self.keys_d)
        )
        return queries, keys


@dataclass(frozen=True)
class ScoreRules:
    """What is done to scores of attention.

    Attributes:
        scaling: None: by the width of a head.
        softcap: scores are `softcap * tanh(score / softcap)`; None: they stay as they are.
        sinks_H: of each head a score that takes its share of the weights and has no value.
    """

    scaling: float | None = None
    softcap: float | None = None
    sinks_H: torch.Tensor | None = None  # noqa: N815 - a shape

    def described(self, width: int) -> Descriptor:
        """As the kernel of attention reads it, for heads of this width."""
        scaling = width**-0.5 if self.scaling is None else self.scaling
        if self.sinks_H is None:
            return Descriptor(AttentionParams(None, scaling, self.softcap or 0.0), ())
        sinks_H = self.sinks_H.detach().flatten().float().contiguous()
        return Descriptor(AttentionParams(sinks_H.data_ptr(), scaling, self.softcap or 0.0), (sinks_H,))


@dataclass(frozen=True)
class _Turned:
    """Cosines and sines in one piece each, which live as long as this, and how many numbers of a head they turn."""

    tables: tuple[torch.Tensor, torch.Tensor] | None
    arguments: tuple[int | None, int | None, int]

    @classmethod
    def of(cls, turns: tuple[torch.Tensor, torch.Tensor] | None) -> "_Turned":
        if turns is None:
            return cls(None, (None, None, 0))
        cosines, sines = turns[0].contiguous(), turns[1].contiguous()
        return cls((cosines, sines), (cosines.data_ptr(), sines.data_ptr(), cosines.shape[2]))


class SessionTable:
    """Of each session in the step: its block, the block's strides, rows held, rows that are new, where those begin.

    The kernels write to memory of the sessions, which must live as long as the table.

    Attributes:
        width: of a head.
    """

    def __init__(
        self, library: Kernels, sessions: Sequence[tuple[SessionKV, int, int]], heads: tuple[int, int]
    ) -> None:
        self._library = library
        self._n_kv_heads, self.width = heads
        rows: list[Any] = []  # tuples, which ctypes turns into structures
        first = 0
        for kv, position, count in sessions:
            block = kv.block
            if block is None:
                raise RuntimeError(f"{kv} has no block: ask of() for a table")
            rows.append((block.data_ptr(), block.stride(0), block.stride(1), position + count, count, first))
            first += count
        self._n_rows = first
        self._sessions = (Session * len(rows))(*rows)
        self._addressed = ctypes.addressof(self._sessions), len(rows)

    @classmethod
    def of(cls, sessions: Sequence[tuple[SessionKV, int, int]]) -> "SessionTable | None":
        """Of sessions, each with the rows that it keeps and those that it brings; None where no kernel reads theirs."""
        library = kernels()
        if library is None or not sessions:
            return None
        layout = sessions[0][0].layout
        is_read = layout.dtype is torch.bfloat16 and layout.device.type == "cpu" and len(layout.groups) == 1
        is_read = is_read and layout.shapes[0][1] % 2 == 0
        return cls(library, sessions, layout.shapes[0]) if is_read else None

    def keep(self, tensor: int, rows_KTd: torch.Tensor) -> None:
        """Puts the step's rows of one of the layout's tensors where the sessions keep theirs."""
        rows_KTd = rows_KTd if rows_KTd.stride(2) == 1 else rows_KTd.contiguous()
        heads, _, width = rows_KTd.shape
        strides = rows_KTd.stride(0), rows_KTd.stride(1)
        self._library.store(StoreCall(*self._addressed, tensor, rows_KTd.data_ptr(), *strides, heads, width))

    def takes(self, n_projected: int, n_attended: int, norms: HeadNorms | None) -> bool:
        """Whether rows of `n_projected` numbers are heads of which attention gives back `n_attended`."""
        n_heads, rest = divmod(n_attended, self.width)
        fit = norms is None or norms.queries_d.shape == norms.keys_d.shape == (self.width,)
        return fit and not rest and not n_heads % self._n_kv_heads and n_projected == self._n_projected(n_heads)

    def takes_turns(self, turns: Any) -> bool:
        """Whether these are cosines and sines [1, T, n], for the first n numbers of each head."""
        if not isinstance(turns, tuple) or len(turns) != 2 or not all(isinstance(each, torch.Tensor) for each in turns):
            return False
        cosines, sines = turns
        fit = cosines.shape == sines.shape and cosines.ndim == 3 and cosines.shape[0] == 1
        return (
            fit and cosines.dtype is sines.dtype is torch.bfloat16 and cosines.shape[2] in range(2, self.width + 1, 2)
        )

    def place_heads(
        self,
        layer: int,
        rows_TN: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor] | None,
        norms: HeadNorms | None,
    ) -> torch.Tensor:
        """Norms and rotates heads, and puts keys and values where the sessions keep theirs.

        Args:
            rows_TN: of queries, keys and values, one head behind the other; queries are changed in place.
            turns: cosines and sines [1, T, n] of the rows' positions; None: nothing is rotated.

        Returns:
            The queries [H, T, d], where they were.
        """
        n_rows, n_projected = rows_TN.shape
        n_heads = n_projected // self.width - 2 * self._n_kv_heads
        turned = _Turned.of(turns)
        query_norm, key_norm = ((), ()) if norms is None else norms.described
        self._library.rope_and_store(
            RopeAndStoreCall(
                *self._addressed,
                layer,
                rows_TN.data_ptr(),
                n_rows,
                n_heads,
                self._n_kv_heads,
                self.width,
                *turned.arguments,
                query_norm,
                key_norm,
                torch.get_num_threads(),
            )
        )
        return rows_TN.as_strided((n_heads, n_rows, self.width), (self.width, n_projected, 1))

    def attend(
        self, layer: int, query_HTd: torch.Tensor, starts_T: torch.Tensor | None, how: ScoreRules
    ) -> torch.Tensor:
        """Outputs [T, H, d]. A row's are the same to the bit whatever rows come with it.

        Args:
            starts_T: of each row the first row of its session that it sees (int64); None: each sees all before it.
        """
        query_HTd = query_HTd if query_HTd.stride(2) == 1 else query_HTd.contiguous()
        heads, n_rows, width = query_HTd.shape
        output_THd = query_HTd.new_empty(n_rows, heads, width)
        described = how.described(width)
        self._library.attend(
            AttendCall(
                *self._addressed,
                layer,
                None if starts_T is None else starts_T.data_ptr(),
                query_HTd.data_ptr(),
                query_HTd.stride(0),
                query_HTd.stride(1),
                output_THd.data_ptr(),
                heads,
                self._n_kv_heads,
                width,
                described.structure,
                torch.get_num_threads(),
            )
        )
        return output_THd

    def run_layers(
        self,
        layers: Layers,
        hidden_1TD: torch.Tensor,
        turns: tuple[torch.Tensor, torch.Tensor] | None,
        starts_T: torch.Tensor | None,
    ) -> torch.Tensor:
        """Rows of all sessions [1, T, D] through decoder layers.

        Args:
            turns: cosines and sines [1, T, n] of the rows' positions; None: nothing is rotated.
            starts_T: of each row the first row of its session that it sees; None: each sees all before it.

        Raises:
            RuntimeError: the rows are not bf16, or not those of the step.
            MemoryError: there is none for what lies between the linear layers.
        """
        if hidden_1TD.dtype is not torch.bfloat16 or hidden_1TD.shape != (1, self._n_rows, layers.row_width):
            expected = f"bf16 [1, {self._n_rows}, {layers.row_width}]"
            raise RuntimeError(f"expected {expected}, found {hidden_1TD.dtype} {list(hidden_1TD.shape)}")
        hidden_1TD = hidden_1TD.contiguous()
        outputs_1TD = torch.empty_like(hidden_1TD)
        turned = _Turned.of(turns)
        self._library.layers(
            LayersCall(
                layers.address,
                layers.count,
                *self._addressed,
                None if starts_T is None else starts_T.data_ptr(),
                *turned.arguments,
                hidden_1TD.data_ptr(),
                outputs_1TD.data_ptr(),
                hidden_1TD.shape[1],
                torch.get_num_threads(),
            )
        )
        return outputs_1TD

    def _n_projected(self, n_heads: int) -> int:
        return (n_heads + 2 * self._n_kv_heads) * self.width
