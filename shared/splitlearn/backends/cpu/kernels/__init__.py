"""Our own kernels in C, compiled when the package is installed where there is a C compiler.

They run on x86 processors with AVX-512 and VNNI, on torch's threads; the same sources are compiled with and without
AVX-512 BF16. Without them torch and oneDNN do the same work more slowly. Beside speed they promise that a row's result
is the same to the bit whatever rows come with it, and however its prompt was cut.
"""

import ctypes
import logging
import os
from collections.abc import Callable
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

from splitlearn.backends.cpu.kernels import abi, structs
from splitlearn.torch_private import has_avx512, has_avx512_bf16


class Kernels:
    """The functions of one compiled library. Each takes one structure, and raises MemoryError if there is none left.

    Raises:
        ImportError: the library was compiled from other sources.
    """

    MOST_INT8_INPUTS = 2**16
    """A row's 16-bit numbers times levels, summed over more inputs, might not fit 32 bits."""

    def __init__(self, library: ctypes.CDLL) -> None:
        # before any function is called: with another layout each would read other memory
        _check(library)
        self.linear: Callable[[structs.LinearCall], None] = _function(library, "linear")
        self.rms_norm: Callable[[structs.RmsNormCall], None] = _function(library, "rms_norm")
        self.gate: Callable[[structs.GateCall], None] = _function(library, "gate")
        self.rope_and_store: Callable[[structs.RopeAndStoreCall], None] = _function(library, "rope_and_store")
        self.store: Callable[[structs.StoreCall], None] = _function(library, "store")
        self.attend: Callable[[structs.AttendCall], None] = _function(library, "attend")
        self.layers: Callable[[structs.LayersCall], None] = _function(library, "layers")


def are_off() -> bool:
    """Whether the environment asks for torch's own operations in place of all that is faster."""
    return os.environ.get("SPLITLEARN_KERNELS", "on").lower() == "off"


@cache
def kernels() -> Kernels | None:
    """The compiled kernels; None where there are none, the processor lacks the instructions, or they are switched off.

    `SPLITLEARN_KERNELS=off` in the environment lets torch do their work, to see whether something is due to them.
    `SPLITLEARN_KERNELS_DIR` names another directory to load them from, for those built by `make test-sanitizers`.
    """
    if _why_not_loaded() is not None:
        return None
    try:
        return _open()
    except (OSError, AttributeError, ImportError) as error:
        logging.getLogger(__name__).warning("%s cannot be used, torch does its work: %s", _suited(), error)
        return None


def why_no_kernels() -> str | None:
    """Why `kernels()` is None, and what to do; None if they are loaded."""
    reason = _why_not_loaded()
    if reason is None and kernels() is None:
        return "they were compiled from other sources, or for another system; install the package again"
    return reason


def _why_not_loaded() -> str | None:
    if are_off():
        return "SPLITLEARN_KERNELS=off switches them off; unset it"
    if _suited() is None:
        return "the processor has no AVX-512 with VNNI; torch's own operations are used"
    if _file() is None:
        return "they were not compiled; install a C compiler, then install the package again"
    return None


def _file() -> Path | None:
    directory = Path(os.environ.get("SPLITLEARN_KERNELS_DIR") or Path(__file__).parent)
    files = [directory / f"{_suited()}{suffix}" for suffix in EXTENSION_SUFFIXES]
    return next((each for each in files if each.exists()), None)


def _open() -> Kernels:
    return Kernels(ctypes.CDLL(str(_file())))


def _suited() -> str | None:
    """The library whose instructions the processor has; None where it has those of neither."""
    if not has_avx512():
        return None
    return "_kernels" if has_avx512_bf16() else "_kernels_without_bf16"


def _check(library: ctypes.CDLL) -> None:
    try:
        compiled = library.splitlearn_abi
    except AttributeError:
        raise ImportError("it was compiled from other sources; install the package again") from None
    compiled.restype = ctypes.c_char_p
    difference = abi.difference(compiled().decode())
    if difference is not None:
        raise ImportError(f"it was compiled from other sources ({difference}); install the package again")


def _function(library: ctypes.CDLL, name: str) -> Callable[[Any], None]:
    function = getattr(library, f"splitlearn_{name}")

    def check(status: int) -> None:
        if status != abi.OK:
            raise MemoryError(f"no memory for the kernel {name}")

    function.argtypes, function.restype = [ctypes.POINTER(abi.FUNCTIONS[name])], check
    return function  # type: ignore[no-any-return]
