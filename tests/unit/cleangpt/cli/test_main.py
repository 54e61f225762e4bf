import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import entry_points, version
from pathlib import Path
from typing import Any

import pytest

from cleangpt.cli.__main__ import PROGRAM
from cleangpt.cli.group import VERBS

Run = Callable[..., Any]


def test_the_help_lists_every_verb_with_its_line(cleangpt: Run) -> None:
    ran = cleangpt("--help")
    assert ran.code == 0
    lines = [line.split(maxsplit=1) for line in ran.out.splitlines()]
    for name, verb in VERBS.items():
        assert [name, verb.line] in lines


@pytest.mark.parametrize("module", PROGRAM.error_roots)
def test_every_error_root_is_where_the_command_looks_for_it(module: str) -> None:
    assert issubclass(getattr(import_module(module), PROGRAM.error_roots[module]), Exception)


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help(cleangpt: Run, name: str) -> None:
    ran = cleangpt(name, "--help")
    assert ran.code == 0
    assert VERBS[name].line in " ".join(ran.out.split())


def test_help_imports_nothing_heavy() -> None:
    program = (
        "import sys; from cleangpt.cli.__main__ import main;"
        "assert main(['--help']) == 0; assert main(['train', '--help']) == 0;"
        "heavy = {'torch', 'transformers', 'matplotlib', 'numpy', 'tokenizers', 'tqdm'} & set(sys.modules);"
        "assert not heavy, heavy"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_command_is_installed_and_tells_the_version(cleangpt: Run) -> None:
    [found] = entry_points(group="console_scripts", name="cleangpt")
    assert found.value == "cleangpt.cli.__main__:main"
    ran = cleangpt("--version")
    assert (ran.code, ran.out) == (0, version("splitlearn") + "\n")


def test_no_verb_shows_the_help_and_is_wrong_usage(cleangpt: Run) -> None:
    ran = cleangpt()
    assert ran.code == 2
    assert ran.out == ""
    assert "Commands:" in ran.err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["tran"], "'train'"),
        (["train", "--colour", "red"], "cleangpt train --help"),
        (["train", "--n-layer", "six"], "--n-layer"),
        (["train"], "--data is missing"),
        (["train", "--data", "x", "--out", "y", "--schedule", "steep"], "expected cosine or wsd, found 'steep'"),
        (["train", "--data", "x", "--out", "y", "--epochs", "1", "--max-steps", "1"], "--epochs and --max-steps"),
        (["train", "--data", "x", "--out", "y", "--validation", "1.5"], "between 0 and 1, found 1.5"),
        (["train", "--data", "x", "--out", "y", "--lr", "0"], "--lr has to be above 0"),
        (["train", "--data", "x", "--out", "y", "--patience", "0"], "--patience has to be 1 or more"),
    ],
)
def test_wrong_usage_is_one_line_and_code_2(cleangpt: Run, words: list[str], said: str) -> None:
    ran = cleangpt(*words)
    assert ran.code == 2
    assert ran.err.startswith("cleangpt: error: ")
    assert ran.err.count("\n") == 1
    assert said in ran.err


def test_a_failure_is_one_line_and_debug_shows_where(cleangpt: Run, tmp_path: Path) -> None:
    ran = cleangpt("accuracy", tmp_path)
    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "manifest.json" in ran.err
    assert "Traceback" in cleangpt("--debug", "accuracy", tmp_path).err
