"""Linear layers at the speed of memory on the CPU: weights packed for our kernels or oneDNN's, or stored in 8 or 4
bits."""

from splitlearn.backends.cpu.linear.int4 import Int4Linear
from splitlearn.backends.cpu.linear.int8 import Int8Linear
from splitlearn.backends.cpu.linear.merged import MergedLinear, MergedLinearSlice
from splitlearn.backends.cpu.linear.native import Native, NativeInt4Linear, NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear.packed import PackedLinear

__all__ = [
    "Int4Linear",
    "Int8Linear",
    "MergedLinear",
    "MergedLinearSlice",
    "Native",
    "NativeInt4Linear",
    "NativeInt8Linear",
    "NativeLinear",
    "PackedLinear",
]
