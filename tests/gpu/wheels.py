"""`make gpu-wheels`: what a machine with a GPU and no network needs beside its torch, into build/gpu-wheels."""

import argparse
import shutil
import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name, parse_wheel_filename

from tests.gpu.machine import IMAGE_HAS, MOST_BYTES, ROOT, WHEELS
from tests.versions.environment import requirements

# what pip matches letter by letter; those of the wheels that exist
PLATFORMS = (
    "manylinux_2_31_x86_64",
    "manylinux_2_28_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux_2_12_x86_64",
)
# an environment of Python 3.12 has none, and building the kernels needs it
BUILD = "setuptools>=77"


def fetch(folder: Path, python_version: str) -> list[Path]:
    """The wheels for a version of Python, as 3.12, with the versions of packages that the tests were run with."""
    shutil.rmtree(folder, ignore_errors=True)
    wanted = [line for line in requirements() if canonicalize_name(Requirement(line).name) not in IMAGE_HAS]
    command = [sys.executable, "-m", "pip", "download", "-qq", "--only-binary=:all:", "--dest", folder]
    command += ["--constraint", ROOT / "constraints" / "cpu.txt", "--python-version", python_version]
    command += [f"--platform={platform}" for platform in PLATFORMS]
    subprocess.run([*command, BUILD, *wanted], check=True)
    for wheel in folder.glob("*.whl"):
        if parse_wheel_filename(wheel.name)[0] in IMAGE_HAS:
            wheel.unlink()
    return sorted(folder.glob("*.whl"))


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--python-version", default="3.12", metavar="3.N")
    given = arguments.parse_args()
    wheels = fetch(ROOT / WHEELS, given.python_version)
    size = sum(each.stat().st_size for each in wheels)
    print(f"{len(wheels)} wheels of {size / 1e6:.1f} MB for Python {given.python_version} in {WHEELS}")
    if size > MOST_BYTES:
        sys.exit(f"they may have {MOST_BYTES / 1e6:.0f} MB: more of them must come with the image")


if __name__ == "__main__":
    main()
