"""Our own kernels in C, compiled when the package is installed where there is a C compiler.

They run on x86 processors with AVX2 and FMA or more, and on 64-bit processors of Arm, on torch's threads. The same
sources are compiled for each instruction set, and the best that the processor has is used. Without them torch and
oneDNN do the same work more slowly. Beside speed they promise that a row's result is the same to the bit whatever rows
come with it, and however its prompt was cut.
"""

import ctypes
import logging
import os
import platform
from collections.abc import Callable, Mapping
from functools import cache
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import Any

import torch  # noqa: F401 - brings the OpenMP runtime on Linux, without which the libraries use one thread

from splitlearn.backends.cpu.kernels import abi, structs
from splitlearn.errors import BadDevice

_X86, _ARM = ("amx", "avx512_bf16", "avx512", "avx2"), ("neon_bf16", "neon")
SETS_BY_PROCESSOR: Mapping[str, tuple[str, ...]] = {"x86_64": _X86, "amd64": _X86, "aarch64": _ARM, "arm64": _ARM}
"""By what systems call kinds of processors, the best first.

x86: AMX, AVX-512 with VNNI and BF16, with VNNI alone, AVX2 with FMA. Arm: NEON with BF16 and I8MM, NEON.
"""
INSTRUCTION_SETS = SETS_BY_PROCESSOR.get(platform.machine().lower(), ())
"""What they are compiled for here."""
_NOT_COMPILED = "they were not compiled; install a C compiler, then install the package again"
_UNFIT = (OSError, AttributeError, ImportError)


class Kernels:
    """The functions of one compiled library. Each takes one structure, and raises MemoryError if there is none left.

    Attributes:
        instruction_set: what the library was compiled for.

    Raises:
        ImportError: the library was compiled from other sources.
    """

    MOST_INT8_INPUTS = 2**16
    """A row's 16-bit numbers times levels, summed over more inputs, might not fit 32 bits."""

    def __init__(self, library: ctypes.CDLL, instruction_set: str) -> None:
        # before any function is called: with another layout each would read other memory
        _check(library)
        self.instruction_set = instruction_set
        self.linear: Callable[[structs.LinearCall], None] = _function(library, "linear")
        self.rms_norm: Callable[[structs.RmsNormCall], None] = _function(library, "rms_norm")
        self.gate: Callable[[structs.GateCall], None] = _function(library, "gate")
        self.rope_and_store: Callable[[structs.RopeAndStoreCall], None] = _function(library, "rope_and_store")
        self.store: Callable[[structs.StoreCall], None] = _function(library, "store")
        self.attend: Callable[[structs.AttendCall], None] = _function(library, "attend")
        self.layers: Callable[[structs.LayersCall], None] = _function(library, "layers")
        self.experts: Callable[[structs.ExpertsCall], None] = _function(library, "experts")


def are_off() -> bool:
    """Whether the environment asks for torch's own operations in place of all that is faster."""
    return _asked() == "off"


@cache
def kernels() -> Kernels | None:
    """The compiled kernels; None where there are none, the processor lacks the instructions, or they are switched off.

    `SPLITLEARN_KERNELS=off` in the environment lets torch do their work, to see whether something is due to them; the
    name of an instruction set does without better ones. `SPLITLEARN_KERNELS_DIR` names another directory to load them
    from, for those built by `make test-sanitizers`.

    Raises:
        BadDevice: the environment asks for an instruction set that cannot be had.
    """
    asked = _asked()
    if asked == "off":
        return None
    if asked != "on":
        return _open_asked(asked)
    for name in INSTRUCTION_SETS:
        try:
            found = _open(name)
        except _UNFIT as error:
            logging.getLogger(__name__).warning("%s cannot be used, torch does its work: %s", _stem(name), error)
            return None
        if found is not None:
            return found
    return None


def available_sets() -> tuple[str, ...]:
    """The instruction sets that `SPLITLEARN_KERNELS` may name here: compiled, and the processor has them."""
    return tuple(name for name in INSTRUCTION_SETS if _fits(name))


def why_no_kernels() -> str | None:
    """Why `kernels()` is None or raises, and what to do; None if they are loaded."""
    try:
        if are_off():
            return "SPLITLEARN_KERNELS=off switches them off; unset it"
        if kernels() is not None:
            return None
    except BadDevice as error:
        return str(error)
    if not INSTRUCTION_SETS:
        return f"there are none for this processor ({platform.machine()}); torch's own operations are used"
    if not any(map(_file, INSTRUCTION_SETS)):
        return _NOT_COMPILED
    if None in map(_fits, INSTRUCTION_SETS):
        return "they were compiled from other sources, or for another system; install the package again"
    return "the processor has no AVX2 with FMA; torch's own operations are used"


def _asked() -> str:
    """On, off, or the instruction set that the environment asks for."""
    asked = os.environ.get("SPLITLEARN_KERNELS", "").lower() or "on"
    words = ("on", "off", *INSTRUCTION_SETS)
    if asked not in words:
        raise BadDevice(f"SPLITLEARN_KERNELS={asked}: expected one of {', '.join(words)}")
    return asked


def _open_asked(name: str) -> Kernels:
    try:
        found = _open(name)
    except _UNFIT as error:
        raise BadDevice(f"SPLITLEARN_KERNELS={name}: {_stem(name)} cannot be used: {error}") from error
    if found is None:
        reason = "the processor lacks its instructions" if _file(name) else _NOT_COMPILED
        raise BadDevice(f"SPLITLEARN_KERNELS={name}: {reason}; here it can be {', '.join(('off', *available_sets()))}")
    return found


def _open(name: str) -> Kernels | None:
    """The kernels for an instruction set; None where they were not compiled, or the processor lacks it.

    Raises:
        OSError, AttributeError, ImportError: the library does not fit this installation or this system.
    """
    file = _file(name)
    if file is None:
        return None
    library = ctypes.CDLL(str(file))
    _check(library)
    return Kernels(library, name) if library.splitlearn_is_supported() else None


def _fits(name: str) -> bool | None:
    """Whether an instruction set can be had; None if its library does not fit this installation or this system."""
    try:
        return _open(name) is not None
    except _UNFIT:
        return None


def _stem(name: str) -> str:
    return f"_kernels_{name}"


def _file(name: str) -> Path | None:
    directory = Path(os.environ.get("SPLITLEARN_KERNELS_DIR") or Path(__file__).parent)
    files = [directory / f"{_stem(name)}{suffix}" for suffix in EXTENSION_SUFFIXES]
    return next((each for each in files if each.exists()), None)


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
