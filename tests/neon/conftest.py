"""The NEON kernels in a program for Arm, which QEMU runs."""

import os
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pytest

from splitlearn.backends.cpu.kernels import SETS_BY_PROCESSOR, abi

SOURCES = sorted(abi.HEADER.parent.glob("*.c"))
# as the package is compiled, and with no warning
FLAGS = ["-std=gnu11", "-O3", "-ffp-contract=off", "-static", "-Werror", f"-I{abi.HEADER.parent}"]
COMPILERS: Mapping[str, Sequence[str] | None] = {
    # a C library of its own: neither headers nor libraries of Arm need to be installed
    "zig": [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-linux-musl"],
    "gcc": [path] if (path := shutil.which("aarch64-linux-gnu-gcc")) else None,
}
NO_QEMU = "qemu-aarch64 is not installed: `apt-get install qemu-user` (or your system's package of that name)"
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture(scope="session")
def qemu() -> str:
    program = shutil.which("qemu-aarch64") or shutil.which("qemu-aarch64-static")
    return program or pytest.fail(NO_QEMU)


@pytest.fixture(scope="session", params=[name for name, command in COMPILERS.items() if command])
def compiler(request: pytest.FixtureRequest) -> Sequence[str]:
    return COMPILERS[request.param] or ()


@pytest.fixture(scope="session")
def harnesses(compiler: Sequence[str], tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A program for each instruction set."""
    folder = tmp_path_factory.mktemp("harnesses")
    warnings = shlex.split(os.environ.get("C_WARNINGS", "-Wall -Wextra"))
    harness, found = Path(__file__).with_name("harness.c"), {}
    for name in SETS_BY_PROCESSOR["aarch64"]:
        found[name] = folder / name
        command = [*compiler, *FLAGS, *warnings, f"-DSIMD_{name.upper()}", harness, *SOURCES, "-lm", "-o", found[name]]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
    return found


@pytest.fixture(scope="session")
def run(harnesses: Mapping[str, Path], qemu: str) -> Run:
    """Runs a harness on a processor: (instruction set, processor, *arguments)."""

    def run(instruction_set: str, processor: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
        command = [qemu, "-cpu", processor, str(harnesses[instruction_set]), *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)

    return run
