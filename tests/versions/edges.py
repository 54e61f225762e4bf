"""The edges of the window of versions in pyproject.toml, and what results of theirs depend on.

Results are stale when their hash is another. It covers what meets other versions and what judges it:

- the edge to transformers and torch, `splitlearn/hf` and `torch_private.py`, and its tests,
- the tests of equivalence, and the walk over all architectures,
- the versions that pip is asked for.

It leaves out the rest of the package, whose tests run with the versions of `constraints/cpu.txt` alone: otherwise
every commit would need an hour for both edges. What it covers is counted as text without empty lines and without
imports of anything but torch and transformers, so that a module that moves elsewhere does not make results stale.
Verdicts of `architectures/result.json` are not covered: `test_versions.py` compares those in results with them anew.
"""

import ast
import hashlib
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).parents[2]
RESULTS = Path(__file__).parent
COVERED = (
    "shared/splitlearn/hf",
    "shared/splitlearn/torch_private.py",
    "tests/architectures/examination.py",
    "tests/architectures/small_configs.py",
    "tests/architectures/walk.py",
    "tests/equivalence",
    "tests/unit/splitlearn/hf",
    "tests/unit/splitlearn/test_torch_private.py",
)
PACKAGES = ("torch", "transformers")


@dataclass(frozen=True)
class Edge:
    """One end of the window: what pip is asked for, by package."""

    name: str
    requirements: Mapping[str, str]

    @property
    def results(self) -> Path:
        return RESULTS / f"{self.name}.json"

    def holds(self, package: str, version: str) -> bool:
        """Whether a version belongs to this edge; builds for one kind of device count as their version."""
        return Requirement(self.requirements[package]).specifier.contains(Version(version).public)


def edges(project: str | None = None) -> tuple[Edge, Edge]:
    """The oldest and the newest minor release; of each pip takes the newest patch.

    Args:
        project: the text of a pyproject.toml in place of this repository's.
    """
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8") if project is None else project
    named = (Requirement(line) for line in tomllib.loads(text)["project"]["dependencies"])
    window = {each.name: each.specifier for each in named if each.name in PACKAGES}
    lower = {name: next(part.version for part in window[name] if part.operator == ">=") for name in PACKAGES}
    upper = {name: next(part.version for part in window[name] if part.operator == "<") for name in PACKAGES}
    return (
        Edge("oldest", {name: f"{name}=={lower[name]}.*" for name in PACKAGES}),
        Edge("newest", {name: f"{name}=={_release_before(upper[name])}.*" for name in PACKAGES}),
    )


def _release_before(bound: str) -> str:
    """The minor release that an upper bound lets in last, which nothing tells where it is a major one's first."""
    major, minor = Version(bound).release
    if minor == 0:
        raise ValueError(f"<{bound} does not say which release is the last: name one of its minor releases")
    return f"{major}.{minor - 1}"


def input_hash(edge: Edge, root: Path = ROOT) -> str:
    """What results of this edge depend on, as one text of 64 digits: see above."""
    digest = hashlib.sha256()
    for name in PACKAGES:
        digest.update(f"{edge.requirements[name]}\n".encode())
    for path in sorted(_files(root)):
        digest.update(f"{path}\n{_counted(root / path)}\n".encode())
    return digest.hexdigest()


def _files(root: Path) -> Iterator[str]:
    """Paths with slashes, so that they sort alike everywhere."""
    for name in COVERED:
        path = root / name
        files = sorted(path.rglob("*.py")) if path.is_dir() else [path]
        yield from (each.relative_to(root).as_posix() for each in files)


def _counted(path: Path) -> str:
    """The lines of a module that count."""
    text = path.read_text(encoding="utf-8")
    others = {
        line
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Import | ast.ImportFrom) and not _roots(node) & set(PACKAGES)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    lines = enumerate(text.splitlines(), start=1)
    return "\n".join(line.rstrip() for number, line in lines if line.strip() and number not in others)


def _roots(node: ast.Import | ast.ImportFrom) -> set[str]:
    names = [each.name for each in node.names] if isinstance(node, ast.Import) else [node.module or ""]
    return {name.partition(".")[0] for name in names}
