"""The sessions of one step as our kernels read them.

Shapes: T rows of all sessions, H heads, K heads of keys, d head dimension.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.attention.params import AttentionParams
from splitlearn.attention.sequence_slice import SequenceSlice
from splitlearn.backends.cpu.contiguous_kv import ContiguousKVCache
from splitlearn.backends.cpu.kernels import Kernels, kernels
from splitlearn.backends.cpu.kernels.structs import (
    AttendCall,
    Descriptor,
    Layers,
    LayersCall,
    RopeAndStoreCall,
    RowNorm,
    Session,
    SoftmaxParams,
    StoreCall,
)


def can_read(layout: KVLayout) -> bool:
    """Whether the kernels read keys and values of this layout here."""
    is_read = layout.dtype is torch.bfloat16 and layout.device.type == "cpu" and len(layout.groups) == 1
    return is_read and layout.shapes[0][1] % 2 == 0 and kernels() is not None


@dataclass(frozen=True)
class HeadNorms:
    """Root mean square norms of the heads of queries and keys; see `fused_norms.FusedRMSNorm`."""

    queries_d: torch.Tensor
    keys_d: torch.Tensor
    epsilon: float
    unit_offset: bool

    @property
    def descriptors(self) -> tuple[RowNorm, RowNorm]:
        """As the kernels read them: of queries and of keys."""
        queries, keys = (
            RowNorm(weight_d.data_ptr(), self.epsilon, self.unit_offset) for weight_d in (self.queries_d, self.keys_d)
        )
        return queries, keys


def kernel_params(params: AttentionParams, head_dim: int) -> Descriptor:
    """The parameters as the attention kernel reads them, which expands no latents."""
    scaling = head_dim**-0.5 if params.scaling is None else params.scaling
    if params.sinks is None:
        return Descriptor(SoftmaxParams(None, scaling, params.softcap or 0.0), ())
    sinks_H = params.sinks.detach().flatten().float().contiguous()
    return Descriptor(SoftmaxParams(sinks_H.data_ptr(), scaling, params.softcap or 0.0), (sinks_H,))


@dataclass(frozen=True)
class _Rope:
    """Contiguous cosines and sines, which live as long as this, and how many numbers of a head they rotate."""

    tables: tuple[torch.Tensor, torch.Tensor] | None
    arguments: tuple[int | None, int | None, int]

    @classmethod
    def of(cls, cos_sin: tuple[torch.Tensor, torch.Tensor] | None) -> "_Rope":
        if cos_sin is None:
            return cls(None, (None, None, 0))
        cosines, sines = cos_sin[0].contiguous(), cos_sin[1].contiguous()
        return cls((cosines, sines), (cosines.data_ptr(), sines.data_ptr(), cosines.shape[2]))


class AttentionMetadata:
    """For each session: the address and strides of its cache, its rows, how many are new, and the first new one.

    Kernels write to the sessions' memory, which must live as long as this.

    Attributes:
        head_dim: numbers of a head.
    """

    def __init__(
        self, library: Kernels, sessions: Sequence[SequenceSlice[ContiguousKVCache]], heads: tuple[int, int]
    ) -> None:
        self._library = library
        self._n_kv_heads, self.head_dim = heads
        rows: list[Any] = []  # tuples, which ctypes turns into structures
        first = 0
        for kv, position, count in sessions:
            block = kv.block
            if block is None:
                raise RuntimeError(f"{kv} is not in one tensor: use AttentionMetadata.of()")
            level_bytes = block.shape[3] if kv.layout.is_int8 else 0
            strides = block.stride(0), block.stride(1)
            rows.append((block.data_ptr(), *strides, level_bytes, position + count, count, first))
            first += count
        self._n_rows = first
        self._sessions = (Session * len(rows))(*rows)
        self._addressed = ctypes.addressof(self._sessions), len(rows)

    @classmethod
    def of(cls, sessions: Sequence[SequenceSlice[ContiguousKVCache]]) -> "AttentionMetadata | None":
        """The metadata of sessions whose rows are reserved; None where no kernel can read them."""
        library = kernels()
        if library is None or not sessions:
            return None
        layout = sessions[0][0].layout
        return cls(library, sessions, layout.shapes[0]) if can_read(layout) else None

    def store(self, tensor: int, rows_KTd: torch.Tensor) -> None:
        """Writes the step's rows of one of the layout's tensors to the sessions' caches."""
        rows_KTd = rows_KTd if rows_KTd.stride(2) == 1 else rows_KTd.contiguous()
        heads, _, width = rows_KTd.shape
        strides = rows_KTd.stride(0), rows_KTd.stride(1)
        self._library.store(StoreCall(*self._addressed, tensor, rows_KTd.data_ptr(), *strides, heads, width))

    def supports(self, n_projected: int, n_attended: int, norms: HeadNorms | None) -> bool:
        """Whether rows of `n_projected` numbers are heads of which attention gives back `n_attended`."""
        n_heads, rest = divmod(n_attended, self.head_dim)
        fit = norms is None or norms.queries_d.shape == norms.keys_d.shape == (self.head_dim,)
        return fit and not rest and not n_heads % self._n_kv_heads and n_projected == self._n_projected(n_heads)

    def supports_rope(self, cos_sin: Any) -> bool:
        """Whether these are cosines and sines [1, T, n], for the first n numbers of each head."""
        if (
            not isinstance(cos_sin, tuple)
            or len(cos_sin) != 2
            or not all(isinstance(each, torch.Tensor) for each in cos_sin)
        ):
            return False
        cosines, sines = cos_sin
        fit = cosines.shape == sines.shape and cosines.ndim == 3 and cosines.shape[0] == 1
        return (
            fit
            and cosines.dtype is sines.dtype is torch.bfloat16
            and cosines.shape[2] in range(2, self.head_dim + 1, 2)
        )

    def rope_and_store(
        self,
        layer: int,
        rows_TN: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor] | None,
        norms: HeadNorms | None,
    ) -> torch.Tensor:
        """Norms and rotates heads, and writes keys and values to the sessions' caches.

        Args:
            rows_TN: of queries, keys and values, one head behind the other; queries are changed in place.
            cos_sin: cosines and sines [1, T, n] of the rows' positions; None: nothing is rotated.

        Returns:
            The queries [H, T, d], where they were.
        """
        n_rows, n_projected = rows_TN.shape
        n_heads = n_projected // self.head_dim - 2 * self._n_kv_heads
        rope = _Rope.of(cos_sin)
        query_norm, key_norm = ((), ()) if norms is None else norms.descriptors
        self._library.rope_and_store(
            RopeAndStoreCall(
                *self._addressed,
                layer,
                rows_TN.data_ptr(),
                n_rows,
                n_heads,
                self._n_kv_heads,
                self.head_dim,
                *rope.arguments,
                query_norm,
                key_norm,
                torch.get_num_threads(),
            )
        )
        return rows_TN.as_strided((n_heads, n_rows, self.head_dim), (self.head_dim, n_projected, 1))

    def attend(
        self, layer: int, query_HTd: torch.Tensor, first_visible_T: torch.Tensor | None, params: AttentionParams
    ) -> torch.Tensor:
        """Outputs [T, H, d]. A row's are the same to the bit whatever rows come with it.

        Args:
            first_visible_T: the first row of its session that each row sees, int64; None: each sees all earlier rows.
        """
        query_HTd = query_HTd if query_HTd.stride(2) == 1 else query_HTd.contiguous()
        heads, n_rows, width = query_HTd.shape
        output_THd = query_HTd.new_empty(n_rows, heads, width)
        softmax = kernel_params(params, width)
        self._library.attend(
            AttendCall(
                *self._addressed,
                layer,
                None if first_visible_T is None else first_visible_T.data_ptr(),
                query_HTd.data_ptr(),
                query_HTd.stride(0),
                query_HTd.stride(1),
                output_THd.data_ptr(),
                heads,
                self._n_kv_heads,
                width,
                softmax.structure,
                torch.get_num_threads(),
            )
        )
        return output_THd

    def run_layers(
        self,
        layers: Layers,
        hidden_1TD: torch.Tensor,
        cos_sin: tuple[torch.Tensor, torch.Tensor] | None,
        first_visible_T: torch.Tensor | None,
    ) -> torch.Tensor:
        """Rows of all sessions [1, T, D] through decoder layers.

        Args:
            cos_sin: cosines and sines [1, T, n] of the rows' positions; None: nothing is rotated.
            first_visible_T: as for `attend`.

        Raises:
            RuntimeError: the rows are not bf16, or not those of the step.
            MemoryError: there is none for what lies between the linear layers.
        """
        if hidden_1TD.dtype is not torch.bfloat16 or hidden_1TD.shape != (1, self._n_rows, layers.row_width):
            expected = f"bf16 [1, {self._n_rows}, {layers.row_width}]"
            raise RuntimeError(f"expected {expected}, found {hidden_1TD.dtype} {list(hidden_1TD.shape)}")
        hidden_1TD = hidden_1TD.contiguous()
        outputs_1TD = torch.empty_like(hidden_1TD)
        rope = _Rope.of(cos_sin)
        self._library.layers(
            LayersCall(
                layers.address,
                layers.count,
                *self._addressed,
                None if first_visible_T is None else first_visible_T.data_ptr(),
                *rope.arguments,
                hidden_1TD.data_ptr(),
                outputs_1TD.data_ptr(),
                hidden_1TD.shape[1],
                torch.get_num_threads(),
            )
        )
        return outputs_1TD

    def _n_projected(self, n_heads: int) -> int:
        return (n_heads + 2 * self._n_kv_heads) * self.head_dim
