"""What the kernel of whole layers reads, as layer.c and kernels.h lay it out."""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

_POINTER, _LONG, _INT, _FLOAT = ctypes.c_void_p, ctypes.c_long, ctypes.c_int, ctypes.c_float


class RowNorm(ctypes.Structure):
    """A root mean square norm; without a weight there is none."""

    _fields_ = (("weight", _POINTER), ("epsilon", _FLOAT), ("adds_one", _INT))


class Linear(ctypes.Structure):
    """A packed weight; in bf16 without scales and sums of levels."""

    _fields_ = (
        ("weight", _POINTER),
        ("scales", _POINTER),
        ("sums", _POINTER),
        ("bias", _POINTER),
        ("n_inputs", _LONG),
        ("n_outputs", _LONG),
    )


class How(ctypes.Structure):
    """What is done to scores of attention: `sinks` are fp32, one per head; a soft cap of 0 is none."""

    _fields_ = (("sinks", _POINTER), ("scaling", _FLOAT), ("softcap", _FLOAT))


class Layer(ctypes.Structure):
    """A decoder layer."""

    _fields_ = (
        ("before_attention", RowNorm),
        ("after_attention", RowNorm),
        ("before_gates", RowNorm),
        ("after_gates", RowNorm),
        ("projects", Linear),
        ("projects_out", Linear),
        ("gates", Linear),
        ("closes", Linear),
        ("query_norm", RowNorm),
        ("key_norm", RowNorm),
        ("index", _LONG),
        ("n_heads", _LONG),
        ("n_kv_heads", _LONG),
        ("width", _LONG),
        ("how", How),
        ("is_turned", _INT),
        ("is_gelu", _INT),
    )


@dataclass(frozen=True)
class Described:
    """A structure, and the tensors whose memory it names: detached, so that nobody gives them other memory."""

    structure: ctypes.Structure
    tensors: tuple[Any, ...]


class Layers:
    """Decoder layers that run one after the other."""

    def __init__(self, layers: Sequence[Described]) -> None:
        self.layers = tuple(layers)
        self.count = len(layers)
        self.row_width = int(layers[0].structure.projects.n_inputs)
        self.addresses = (ctypes.c_void_p * self.count)(*(ctypes.addressof(each.structure) for each in layers))
