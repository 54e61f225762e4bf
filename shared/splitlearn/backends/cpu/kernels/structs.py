"""Structures that Python and the C kernels share; `abi.h` is generated from them (`make kernels-header`).

Tensors are bf16 unless a type says otherwise. Strides count numbers, not bytes.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


def _pointer(c_type: str) -> type[ctypes.c_void_p]:
    """An address that Python gives as an int or None; `c_type` is what C takes it for."""
    return type("Pointer", (ctypes.c_void_p,), {"c_type": c_type})


_INT32, _INT64, _UINT32, _FLOAT = ctypes.c_int32, ctypes.c_int64, ctypes.c_uint32, ctypes.c_float
_BYTES = _pointer("const void *")
_IN, _INOUT, _IN_FP16 = _pointer("const bf16 *"), _pointer("bf16 *"), _pointer("const fp16 *")
_IN_FLOAT, _IN_INT32, _IN_INT64 = (_pointer(f"const {name} *") for name in ("float", "int32_t", "int64_t"))
_SESSIONS, _LAYERS = _pointer("const Session *"), _pointer("const Layer *const *")


class Session(ctypes.Structure):
    """The KV cache of one session, and the rows that it brings to a step.

    block: [tensors][heads][capacity][head_dim]; tensor 2i holds the keys of layer i, tensor 2i + 1 its values
    level_row_bytes: of a row of a head that is held as 8-bit levels, see kv_rows.h; then strides count bytes; 0: rows
        are bf16
    n_rows: held in all, the new ones included
    first_row: of the session among the rows of the step
    """

    _fields_ = (
        ("block", _INOUT),
        ("tensor_stride", _INT64),
        ("head_stride", _INT64),
        ("level_row_bytes", _INT64),
        ("n_rows", _INT64),
        ("n_new", _INT64),
        ("first_row", _INT64),
    )


class RowNorm(ctypes.Structure):
    """A root mean square norm of rows or heads.

    weight: NULL: there is no norm
    unit_offset: 1: the weight is an offset to one, and the result is rounded once; 0: the normed row is rounded before
        it is multiplied by the weight
    """

    _fields_ = (("weight", _IN), ("epsilon", _FLOAT), ("unit_offset", _INT32))


class Linear(ctypes.Structure):
    """A linear layer with a packed weight.

    weight: bf16, int8 or int4 panels, see linear.c, linear_int8.c and linear_int4.c
    scales: one per output of an int8 weight; NULL: the weight is no int8
    sums: of the int8 weights of each output, filled up to whole panels; NULL: the weight is no int8
    group_scales: of an int4 weight, see linear_int4.c; NULL: the weight is no int4
    zeros: of an int4 weight, as its scales; NULL: all are 8
    group_size: how many inputs of an int4 weight share a scale, a multiple of 32
    bias: or NULL
    """

    _fields_ = (
        ("weight", _BYTES),
        ("scales", _IN),
        ("sums", _IN_INT32),
        ("group_scales", _IN_FP16),
        ("zeros", _IN_FP16),
        ("group_size", _INT64),
        ("bias", _IN),
        ("n_inputs", _INT64),
        ("n_outputs", _INT64),
    )


class SoftmaxParams(ctypes.Structure):
    """What is done to attention scores.

    sinks: one score per head that takes part in the softmax and has no value; NULL: none
    softcap: scores become softcap * tanh(score / softcap); 0: they stay as they are
    """

    _fields_ = (("sinks", _IN_FLOAT), ("scaling", _FLOAT), ("softcap", _FLOAT))


class Gate(ctypes.Structure):
    """What opens a gated unit: act(gate) * (row + offset).

    is_gelu: 1: act is GELU, approximated by tanh; 0: gate * sigmoid(alpha * gate), which is SiLU where alpha is 1
    limit: greater gates become it, and rows beyond it and its negative become these; 0: there is none
    """

    _fields_ = (("is_gelu", _INT32), ("alpha", _FLOAT), ("limit", _FLOAT), ("offset", _FLOAT))

    @classmethod
    def plain(cls, is_gelu: bool) -> "Gate":
        """GELU or SiLU alone."""
        return cls(is_gelu, 1.0, 0.0, 0.0)


class Layer(ctypes.Structure):
    """A decoder layer.

    query_norm: of each head; either both head norms have a weight or none
    index: of the layer in the sessions' blocks
    """

    _fields_ = (
        ("pre_attention_norm", RowNorm),
        ("post_attention_norm", RowNorm),
        ("pre_mlp_norm", RowNorm),
        ("post_mlp_norm", RowNorm),
        ("qkv_proj", Linear),
        ("o_proj", Linear),
        ("gate_up_proj", Linear),
        ("down_proj", Linear),
        ("query_norm", RowNorm),
        ("key_norm", RowNorm),
        ("index", _INT64),
        ("n_heads", _INT64),
        ("n_kv_heads", _INT64),
        ("head_dim", _INT64),
        ("attention", SoftmaxParams),
        ("uses_rope", _INT32),
        ("gate", Gate),
    )


class LinearCall(ctypes.Structure):
    """rows [n_rows][n_inputs] -> outputs [n_rows][n_outputs]"""

    _fields_ = (
        ("rows", _IN),
        ("outputs", _INOUT),
        ("n_rows", _INT64),
        ("row_stride", _INT64),
        ("linear", Linear),
        ("n_threads", _UINT32),
    )


class RmsNormCall(ctypes.Structure):
    """rows [n_rows][width] -> outputs of the same shape, which may be the rows themselves"""

    _fields_ = (
        ("rows", _IN),
        ("outputs", _INOUT),
        ("n_rows", _INT64),
        ("width", _INT64),
        ("norm", RowNorm),
        ("n_threads", _UINT32),
    )


class GateCall(ctypes.Structure):
    """act(gates) * (rows + offset) -> outputs [n_rows][width]

    stride: from one row to the next, of gates and rows
    """

    _fields_ = (
        ("gates", _IN),
        ("rows", _IN),
        ("outputs", _INOUT),
        ("n_rows", _INT64),
        ("width", _INT64),
        ("stride", _INT64),
        ("gate", Gate),
        ("n_threads", _UINT32),
    )


class RopeAndStoreCall(ctypes.Structure):
    """Norms and rotates the heads of a step's rows: queries in place, keys and values into the sessions' blocks.

    rows: [n_rows][n_heads + 2 n_kv_heads][head_dim]: queries, keys, values
    cosines: [n_rows][rotary_dim], as sines
    rotary_dim: the first numbers of each head, which are rotated; 0: none is
    """

    _fields_ = (
        ("sessions", _SESSIONS),
        ("n_sessions", _INT64),
        ("layer", _INT64),
        ("rows", _INOUT),
        ("n_rows", _INT64),
        ("n_heads", _INT64),
        ("n_kv_heads", _INT64),
        ("head_dim", _INT64),
        ("cosines", _IN),
        ("sines", _IN),
        ("rotary_dim", _INT64),
        ("query_norm", RowNorm),
        ("key_norm", RowNorm),
        ("n_threads", _UINT32),
    )


class StoreCall(ctypes.Structure):
    """Copies rows [n_heads][rows of the step][head_dim] behind those that the sessions hold of one tensor."""

    _fields_ = (
        ("sessions", _SESSIONS),
        ("n_sessions", _INT64),
        ("tensor", _INT64),
        ("rows", _IN),
        ("head_stride", _INT64),
        ("row_stride", _INT64),
        ("n_heads", _INT64),
        ("head_dim", _INT64),
    )


class AttendCall(ctypes.Structure):
    """Attention of all rows of a step to their sessions' keys and values.

    starts: the first row of its session that each row sees; NULL: each sees all before it
    queries: of head h and row r, head_dim numbers at h * head_stride + r * row_stride
    outputs: [rows][n_heads][head_dim]
    """

    _fields_ = (
        ("sessions", _SESSIONS),
        ("n_sessions", _INT64),
        ("layer", _INT64),
        ("starts", _IN_INT64),
        ("queries", _IN),
        ("head_stride", _INT64),
        ("row_stride", _INT64),
        ("outputs", _INOUT),
        ("n_heads", _INT64),
        ("n_kv_heads", _INT64),
        ("head_dim", _INT64),
        ("params", SoftmaxParams),
        ("n_threads", _UINT32),
    )


class LayersCall(ctypes.Structure):
    """Rows of all sessions through decoder layers, one after the other.

    starts: as in AttendCall
    cosines: as in RopeAndStoreCall, for the layers that use them
    outputs: [n_rows][hidden size], as rows
    """

    _fields_ = (
        ("layers", _LAYERS),
        ("n_layers", _INT64),
        ("sessions", _SESSIONS),
        ("n_sessions", _INT64),
        ("starts", _IN_INT64),
        ("cosines", _IN),
        ("sines", _IN),
        ("rotary_dim", _INT64),
        ("rows", _IN),
        ("outputs", _INOUT),
        ("n_rows", _INT64),
        ("n_threads", _UINT32),
    )


class ExpertsCall(ctypes.Structure):
    """rows [n_rows][n_inputs] -> outputs of the same shape: sums over the gated units that each row has chosen.

    choices: [n_rows][n_choices], numbers of experts; others than [0, n_experts) stand for none
    shares: of each choice's output in the sum
    gate_up_proj: of the first expert; the weights of all lie one after the other, and so do scales, sums and biases.
        Its outputs are the gates, then what they are multiplied by
    down_proj: the same
    """

    _fields_ = (
        ("rows", _IN),
        ("choices", _IN_INT64),
        ("shares", _IN_FLOAT),
        ("outputs", _INOUT),
        ("n_rows", _INT64),
        ("n_choices", _INT64),
        ("n_experts", _INT64),
        ("gate_up_proj", Linear),
        ("down_proj", Linear),
        ("gate", Gate),
        ("n_threads", _UINT32),
    )


@dataclass(frozen=True)
class Descriptor:
    """A structure and the tensors whose memory it points to: detached, so that their memory is not replaced."""

    structure: ctypes.Structure
    tensors: tuple[Any, ...]


class Layers:
    """Decoder layers that run one after the other."""

    def __init__(self, layers: Sequence[Descriptor]) -> None:
        self.layers = tuple(layers)
        self.count = len(layers)
        self.row_width = int(layers[0].structure.qkv_proj.n_inputs)
        self._addresses = (ctypes.c_void_p * self.count)(*(ctypes.addressof(each.structure) for each in layers))
        self.address = ctypes.addressof(self._addresses)
