"""Linear layers at the speed of memory on the CPU: weights packed for our kernels or oneDNN's, or stored as int8."""

from splitlearn.backends.cpu.linear.int8 import Int8Linear
from splitlearn.backends.cpu.linear.merged import MergedLinear, MergedLinearSlice
from splitlearn.backends.cpu.linear.native import Native, NativeInt8Linear, NativeLinear
from splitlearn.backends.cpu.linear.packed import PackedLinear

__all__ = [
    "Int8Linear",
    "MergedLinear",
    "MergedLinearSlice",
    "Native",
    "NativeInt8Linear",
    "NativeLinear",
    "PackedLinear",
]
