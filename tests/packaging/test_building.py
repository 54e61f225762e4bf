"""Extensions that have their sources in common, as all sets of kernels have them."""

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
N_EXTENSIONS = 6
PROJECT = """
[project]
name = "numbers"
version = "1"
urls.Homepage = "https://example.invalid"

[tool.setuptools]
py-modules = []
"""
EXTENSION = """
[[tool.setuptools.ext-modules]]
name = "number_{0}"
sources = ["number.c"]
define-macros = [["NUMBER", "{0}"]]
"""

pytestmark = pytest.mark.skipif(shutil.which("cc") is None, reason="compiles")


@pytest.mark.parametrize("flags", [(), ("--parallel", str(N_EXTENSIONS))], ids=["one after the other", "in parallel"])
def test_each_extension_is_linked_from_its_own_objects(flags: tuple[str, ...], tmp_path: Path) -> None:
    shutil.copy(ROOT / "setup.py", tmp_path)
    (tmp_path / "README.md").touch()
    (tmp_path / "number.c").write_text("int number(void) { return NUMBER; }\n")
    extensions = map(EXTENSION.format, range(N_EXTENSIONS))
    (tmp_path / "pyproject.toml").write_text("".join((PROJECT, *extensions)))

    command = [sys.executable, "setup.py", "build_ext", "--inplace", *flags]
    subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)

    libraries = [ctypes.CDLL(str(tmp_path / f"number_{i}.so")) for i in range(N_EXTENSIONS)]
    assert [library.number() for library in libraries] == list(range(N_EXTENSIONS))
    # whatever the order in which they were compiled and linked, none could take another one's
    assert len(list((tmp_path / "build").rglob("number.o"))) == N_EXTENSIONS
