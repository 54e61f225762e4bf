"""Linear layers at the speed of memory on the CPU: weights packed for our kernels or oneDNN's, or stored as int8."""

from splitlearn.linear.int8 import Int8Linear
from splitlearn.linear.native import Native, NativeInt8Linear, NativeLinear
from splitlearn.linear.packed import PackedLinear
from splitlearn.linear.siblings import FusedLinear, Sibling

__all__ = [
    "FusedLinear",
    "Int8Linear",
    "Native",
    "NativeInt8Linear",
    "NativeLinear",
    "PackedLinear",
    "Sibling",
]
