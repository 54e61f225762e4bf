"""Trees run their own benchmarks, whatever their packages are called, and say why they cannot."""

import sys
from pathlib import Path

import pytest

from tests.benchmarks import compare_trees, trees
from tests.benchmarks.contenders import ROOT

BENCHMARK = """
import argparse
from pathlib import Path
from {package} import MILLISECONDS
from tests.benchmarks.figures import Figure, add_json_option, write_report
parser = argparse.ArgumentParser()
parser.add_argument("--quick", action="store_true")
add_json_option(parser)
write_report(parser.parse_args().json, [Figure("step", "ms", [MILLISECONDS], False)])
"""


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trees, "TREES", tmp_path / "trees")
    monkeypatch.setattr(trees, "CHECKPOINTS", tmp_path / "trees" / "checkpoints")


def small_tree(folder: Path, package: str, milliseconds: float, benchmark: str = BENCHMARK) -> Path:
    """A tree of one package, one benchmark and no kernels."""
    (folder / "shared" / package).mkdir(parents=True)
    (folder / "shared" / package / "__init__.py").write_text(f"MILLISECONDS = {milliseconds}\n")
    settings = '[project]\nname = "small"\nversion = "1"\n[tool.setuptools]\npackages = []\n'
    (folder / "pyproject.toml").write_text(settings)
    benchmarks = folder / "tests" / "benchmarks"
    benchmarks.mkdir(parents=True)
    (benchmarks / "figures.py").write_text((ROOT / "tests" / "benchmarks" / "figures.py").read_text())
    (benchmarks / "one_step.py").write_text(benchmark.format(package=package))
    return folder


def test_trees_whose_packages_have_other_names_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    old, new = small_tree(tmp_path / "a", "old_house", 10.0), small_tree(tmp_path / "b", "new_house", 20.0)
    flags = ["--before", str(old), "--after", str(new), "--what", "one_step", "--rounds", "2", "--quick"]
    monkeypatch.setattr(sys, "argv", ["compare_trees", *flags, "--least", "0.97"])
    with pytest.raises(SystemExit, match=r"less than 0\.97 of what it gave: step"):
        compare_trees.main()
    printed = capsys.readouterr()
    assert "| step | 10.0 | 20.0 ms | 2.000 | **0.500** | 0.500 to 0.500 | 0.500 |" in printed.out
    turns = [line.split(":")[0] for line in printed.err.splitlines()]
    assert turns == [f"one_step, round {turn}" for turn in ("1, old", "1, new", "2, new", "2, old")]


def test_a_tree_that_runs_files_of_another_is_refused(tmp_path: Path) -> None:
    stranger = tmp_path / "elsewhere.py"
    stranger.write_text("")
    benchmark = f"import sys\nsys.path.append({str(tmp_path)!r})\nimport elsewhere\n{BENCHMARK}"
    tree = trees.tree_of(str(small_tree(tmp_path / "a", "house", 1.0, benchmark)))
    with pytest.raises(SystemExit, match=r"ran .*elsewhere\.py, which is not in"):
        tree.run("one_step", [], timeout=60)


def test_a_benchmark_without_json_is_told_so(tmp_path: Path) -> None:
    benchmark = "import argparse\nimport {package}\nargparse.ArgumentParser().parse_args()\n"
    tree = trees.tree_of(str(small_tree(tmp_path / "a", "house", 1.0, benchmark)))
    with pytest.raises(SystemExit, match="--lend-benchmarks"):
        tree.run("one_step", [], timeout=60)


def test_a_tree_whose_kernels_are_not_compiled_is_refused(tmp_path: Path) -> None:
    folder = small_tree(tmp_path / "a", "house", 1.0)
    broken = 'ext-modules = [{ name = "house._kernels", sources = ["broken.c"], optional = true }]\n'
    (folder / "pyproject.toml").write_text((folder / "pyproject.toml").read_text() + broken)
    (folder / "broken.c").write_text("this is no C\n")
    with pytest.raises(SystemExit, match=r"was not compiled \(house\._kernels\)"):
        trees.tree_of(str(folder))
