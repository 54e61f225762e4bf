"""What is compiled here for other systems."""

import struct
import subprocess
import sys
from pathlib import Path
from zipfile import ZipFile

import pytest

from splitlearn.backends.cpu.kernels import SETS_BY_PROCESSOR
from support.distributions import copied
from tests.neon.conftest import SOURCES
from tests.neon.wheel import TAG, build

pytestmark = pytest.mark.slow
EM_AARCH64 = 183


def test_the_wheel_for_arm_holds_the_neon_kernels_and_no_others(tmp_path: Path) -> None:
    wheel = build(tmp_path, copied(tmp_path / "checkout"))
    assert wheel.stem.split("-")[2:] == ["py3", "none", f"manylinux2014_aarch64.{TAG}"]
    with ZipFile(wheel) as archive:
        libraries = {name: archive.read(name) for name in archive.namelist() if name.endswith(".so")}
    kernels = "splitlearn/backends/cpu/kernels"
    assert set(libraries) == {f"{kernels}/_kernels_{name}.so" for name in SETS_BY_PROCESSOR["aarch64"]}
    for library in libraries.values():
        (machine,) = struct.unpack_from("<H", library, 18)
        assert machine == EM_AARCH64


@pytest.mark.parametrize("instruction_set", SETS_BY_PROCESSOR["arm64"])
def test_the_kernels_compile_for_macos(instruction_set: str, tmp_path: Path) -> None:
    """They were never run there."""
    compiler = [sys.executable, "-m", "ziglang", "cc", "-target", "aarch64-macos.14.0", "-std=gnu11", "-O1", "-shared"]
    build = [f"-DSIMD_{instruction_set.upper()}", *SOURCES, "-o", tmp_path / "library.so"]
    done = subprocess.run(
        [*compiler, "-Wall", "-Wextra", "-Werror", *build], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-4000:]
