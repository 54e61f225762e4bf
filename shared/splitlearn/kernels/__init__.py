"""Kernels of our own, in C: compiled when the package is installed where a C compiler is at hand.

They run on x86 processors with AVX-512 and VNNI, on the threads of torch; the same sources are compiled with and
without AVX-512 BF16. What they do is done without them too, by torch and oneDNN, more slowly. What they promise beside
speed: a row's result is the same to the bit whatever rows come with it, and however its prompt was cut.
"""

import ctypes
import logging
import os
from collections.abc import Sequence
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from splitlearn.kernels.structs import Layer
from splitlearn.torch_private import has_avx512, has_avx512_bf16

_POINTER, _LONG, _UNSIGNED = ctypes.c_void_p, ctypes.c_long, ctypes.c_uint


class Kernels:
    """The functions of one compiled library. Addresses are those of bf16 numbers where nothing else is said."""

    MOST_INT8_INPUTS = 2**16
    """A row's 16-bit numbers times levels, summed over more inputs, might not fit 32 bits."""

    def __init__(self, library: ctypes.CDLL) -> None:
        self.linear = _function(library, "splitlearn_linear", [_POINTER] * 4 + [_LONG] * 4 + [_UNSIGNED])
        # levels, scales of outputs, int32 sums of each output's levels
        self.linear_int8 = _function(library, "splitlearn_linear_int8", [_POINTER] * 6 + [_LONG] * 4 + [_UNSIGNED])
        # sessions, first rows that are seen, queries, outputs, what is done to scores
        attend = [_POINTER, _LONG, _LONG, _POINTER, _POINTER, _LONG, _LONG, _POINTER, _LONG, _LONG, _LONG, _POINTER]
        self.attend = _function(library, "splitlearn_attend", [*attend, _UNSIGNED])
        norm = [_POINTER] * 3 + [_LONG] * 2 + [ctypes.c_float, ctypes.c_int, _UNSIGNED]
        self.rms_norm = _function(library, "splitlearn_rms_norm", norm)
        # gates, what they gate, outputs; sizes; whether it is GELU
        gate = [_POINTER] * 3 + [_LONG] * 3 + [ctypes.c_int, _UNSIGNED]
        self.gate = _function(library, "splitlearn_gate", gate)
        # sessions, rows of heads, cosines and sines, weights of norms
        place = [_POINTER, _LONG, _LONG, _POINTER, _LONG, _LONG, _LONG, _LONG, _POINTER, _POINTER, _LONG]
        place += [_POINTER, _POINTER, ctypes.c_float, ctypes.c_int, _UNSIGNED]
        self.place_heads = _function(library, "splitlearn_place_heads", place)
        # layers, sessions, first rows that are seen, cosines and sines, rows, outputs; zero: no memory
        layers = [_POINTER, _LONG, _POINTER, _LONG, _POINTER, _POINTER, _POINTER, _LONG, _POINTER, _POINTER, _LONG]
        self.layers = _function(library, "splitlearn_layers", [*layers, _UNSIGNED], ctypes.c_int)
        if _function(library, "splitlearn_layer_size", [], _LONG)() != ctypes.sizeof(Layer):
            raise AttributeError("it was compiled from other sources; install the package again")
        keep = [_POINTER, _LONG, _LONG, _POINTER, _LONG, _LONG, _LONG, _LONG]
        self.keep = _function(library, "splitlearn_keep", keep)


def are_off() -> bool:
    """Whether the environment asks for torch's own operations in place of all that is faster."""
    return os.environ.get("SPLITLEARN_KERNELS", "on").lower() == "off"


@cache
def kernels() -> Kernels | None:
    """What was compiled; None where nothing was, the processor lacks the instructions, or they are switched off.

    `SPLITLEARN_KERNELS=off` in the environment lets torch do their work, to see whether something is due to them.
    """
    if are_off():
        return None
    name = _suited()
    files = [Path(__file__).with_name(f"{name}{suffix}") for suffix in EXTENSION_SUFFIXES]
    file = next((each for each in files if each.exists()), None)
    if name is None or file is None:
        return None
    try:
        return Kernels(ctypes.CDLL(str(file)))
    except (OSError, AttributeError) as error:
        logging.getLogger(__name__).warning("%s cannot be used, torch does its work: %s", file.name, error)
        return None


def _suited() -> str | None:
    """The library whose instructions the processor has; None where it has those of neither."""
    if not has_avx512():
        return None
    return "_kernels" if has_avx512_bf16() else "_kernels_without_bf16"


def _function(
    library: ctypes.CDLL, name: str, arguments: Sequence[type], result: type | None = None
) -> "ctypes._NamedFuncPointer":
    function = getattr(library, name)
    function.argtypes, function.restype = arguments, result
    return function  # type: ignore[no-any-return]
