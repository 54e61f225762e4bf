"""Other states of this repository, each with its kernels, whose benchmarks run from its own files."""

import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

from splitlearn.backends.cpu.kernels import INSTRUCTION_SETS, SETS_BY_PROCESSOR
from tests.benchmarks.contenders import ROOT
from tests.benchmarks.figures import Report, read_report

TREES = ROOT / "build" / "trees"
# of all trees: what a benchmark makes of them is each tree's own
CHECKPOINTS = TREES / "checkpoints"
_BUILD = "from setuptools import setup; setup()"


@dataclass(frozen=True)
class Tree:
    """A checkout that is ready to be measured."""

    label: str
    root: Path

    def run(self, benchmark: str, flags: Sequence[str], timeout: float) -> Report:
        """One run of a benchmark in a process of its own.

        Raises:
            SystemExit: it failed, has no `--json`, took longer than `timeout` seconds, or ran files of another tree.
        """
        file = TREES / "report.json"
        file.unlink(missing_ok=True)
        command = [sys.executable, "-m", f"tests.benchmarks.{benchmark}", *flags, "--json", str(file)]
        try:
            ran = subprocess.run(
                command, cwd=self.root, env=self._environment(), capture_output=True, text=True, timeout=timeout
            )
        except subprocess.TimeoutExpired:
            raise SystemExit(f"{benchmark} of {self.label} took longer than {timeout:g} s; see --timeout") from None
        if ran.returncode or not file.exists():
            hint = "\nbefore it had --json? see --lend-benchmarks" if "--json" in ran.stderr else ""
            raise SystemExit(f"{benchmark} of {self.label} failed:\n{ran.stderr[-3000:]}{hint}")
        report = read_report(file)
        strangers = [path for path in report.files if not path.resolve().is_relative_to(self.root.resolve())]
        if strangers:
            raise SystemExit(f"{benchmark} of {self.label} ran {strangers[0]}, which is not in {self.root}")
        return report

    def _environment(self) -> dict[str, str]:
        # the root, too, for its entry points: the installed ones name the packages of the tree that was installed
        paths = [self.root, *(self.root / name for name in ("shared", "services", "tests"))]
        mine = {"PYTHONPATH": os.pathsep.join(map(str, paths)), "SPLITLEARN_BENCH_CHECKPOINTS": str(CHECKPOINTS)}
        return {**os.environ, **mine}


def tree_of(source: str, *, lend_benchmarks: bool = False) -> Tree:
    """A commit, which is unpacked and compiled once; or a folder, which is compiled where its kernels are not.

    Args:
        lend_benchmarks: put this tree's benchmarks into it. They run as long as both call the packages alike.
    """
    CHECKPOINTS.mkdir(parents=True, exist_ok=True)
    if Path(source).is_dir():
        tree = Tree(source, Path(source).resolve())
    else:
        commit = _git("rev-parse", "--verify", "--short=12", f"{source}^{{commit}}")
        tree = Tree(f"{source} ({commit})" if source != commit else commit, TREES / commit)
        if not (tree.root / "pyproject.toml").exists():
            _unpack(commit, tree.root)
    if lend_benchmarks:
        shutil.copytree(ROOT / "tests" / "benchmarks", tree.root / "tests" / "benchmarks", dirs_exist_ok=True)
    _build(tree)
    return tree


def _unpack(commit: str, folder: Path) -> None:
    unfinished = folder.with_suffix(".unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    archive = subprocess.run(["git", "archive", commit], cwd=ROOT, capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(unfinished)], input=archive, check=True)
    unfinished.rename(folder)


def _build(tree: Tree) -> None:
    """Compiles what is older than its sources, and writes down the tree's entry points beside it.

    Raises:
        SystemExit: kernels are missing. Installing may go on without them; a comparison would mean nothing.
    """
    arguments = ["build_ext", "--inplace", "egg_info"]
    program = ["setup.py"] if (tree.root / "setup.py").exists() else ["-c", _BUILD]
    command = [sys.executable, *program, *arguments]
    built = subprocess.run(command, cwd=tree.root, capture_output=True, text=True)
    missing = [name for name in _extensions(tree.root) if not _is_compiled(tree.root, name)]
    if built.returncode or missing:
        raise SystemExit(f"{tree.label} was not compiled ({', '.join(missing)}):\n{built.stdout}{built.stderr[-3000:]}")


def _extensions(root: Path) -> list[str]:
    settings = tomllib.loads((root / "pyproject.toml").read_text()).get("tool", {}).get("setuptools", {})
    foreign = set().union(*SETS_BY_PROCESSOR.values()) - set(INSTRUCTION_SETS)
    names = [str(module["name"]) for module in settings.get("ext-modules", ())]
    return [name for name in names if name.rpartition("._kernels_")[2] not in foreign]


def _is_compiled(root: Path, name: str) -> bool:
    places = [root / folder / name.replace(".", "/") for folder in ("", "shared", "services")]
    return any(place.with_name(place.name + suffix).exists() for place in places for suffix in EXTENSION_SUFFIXES)


def _git(*arguments: str) -> str:
    ran = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True)
    if ran.returncode:
        raise SystemExit(ran.stderr.strip())
    return ran.stdout.strip()
