"""An environment with the versions of one edge, which is deleted at the end."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packaging.requirements import Requirement

from tests.versions.checkout import link_checkout, project_table
from tests.versions.edges import ROOT, Edge

# Linux wheels of torch bring CUDA along, unless the package index holds others: 6 GB, and 3 of wheels on the way
LEAST_FREE = 14 * 2**30
EXTRAS = ("trunk", "client")
TEST_TOOLS = ("hypothesis", "pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist")
_INSTALLED = """
import json, platform
from importlib.metadata import version
names = ("torch", "transformers", "huggingface-hub", "numpy", "safetensors", "tokenizers")
print(json.dumps({"python": platform.python_version(), **{name: version(name) for name in names}}))
"""


class Environment:
    """A virtual environment in which the project can be imported from this checkout."""

    def __init__(self, folder: Path) -> None:
        self._python = folder / "bin" / "python"

    def run(self, *arguments: str | os.PathLike[str], **variables: str) -> int:
        """A process of its Python, at the root of the checkout; its exit status."""
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONNOUSERSITE": "1", **variables}
        return subprocess.run([self._python, *arguments], cwd=ROOT, env=environment).returncode

    def versions(self) -> dict[str, str]:
        """Of Python, and of the packages that what is tested may depend on."""
        found = subprocess.run([self._python, "-c", _INSTALLED], check=True, capture_output=True, text=True)
        return dict(json.loads(found.stdout))


@contextmanager
def environment(edge: Edge, folder: Path) -> Iterator[Environment]:
    """Makes one in `folder`.

    Raises:
        SystemExit: too little room on the disk, or pip failed.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    free = shutil.disk_usage(folder.parent).free
    if free < LEAST_FREE:
        sys.exit(f"an environment needs {LEAST_FREE >> 30} GB, and {free >> 30} GB are free at {folder.parent}")
    try:
        _install(edge, folder)
        yield Environment(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _install(edge: Edge, folder: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
    constraints = folder / "constraints.txt"
    constraints.write_text("".join(f"{each}\n" for each in edge.requirements.values()))
    # in place of constraints that the machine's own configuration of pip may name, which would choose the versions
    variables = {**os.environ, "PIP_CONSTRAINT": str(constraints)}
    command = [folder / "bin" / "python", "-m", "pip", "install", "--no-cache-dir", "-qq", *requirements()]
    if subprocess.run(command, env=variables).returncode:
        sys.exit(f"pip found no environment for {', '.join(edge.requirements.values())}")
    (site,) = (folder / "lib").glob("python*/site-packages")
    link_checkout(ROOT, site)


def requirements() -> list[str]:
    """What the services and the tests need, without the tools that only look at sources."""
    table = project_table(ROOT)
    extras = table["optional-dependencies"]
    lines = [*table["dependencies"], *(line for name in EXTRAS for line in extras[name])]
    tools = [line for line in extras["dev"] if Requirement(line).name in TEST_TOOLS]
    return [line for line in (*lines, *tools) if Requirement(line).name != table["name"]]
