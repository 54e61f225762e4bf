"""Linear layers at the speed of memory on the CPU: weights packed once for the kernels, or stored as int8."""

from splitlearn.linear.int8 import Int8Linear
from splitlearn.linear.packed import PackedLinear
from splitlearn.linear.packing import QUANTIZATIONS, PackedBytes, pack, resolve_quantization
from splitlearn.linear.siblings import FusedLinear, Sibling

__all__ = [
    "QUANTIZATIONS",
    "FusedLinear",
    "Int8Linear",
    "PackedBytes",
    "PackedLinear",
    "Sibling",
    "pack",
    "resolve_quantization",
]
