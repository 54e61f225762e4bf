import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from splitlearn_cli.group import VERBS

Run = Callable[..., Any]


def test_the_help_lists_every_verb_with_its_line(splitlearn: Run) -> None:
    ran = splitlearn("--help")

    assert ran.code == 0
    lines = [line.split(maxsplit=1) for line in ran.out.splitlines()]
    for name, verb in VERBS.items():
        assert [name, verb.line] in lines


@pytest.mark.parametrize("name", VERBS)
def test_every_verb_has_help_with_the_variable_of_each_flag(splitlearn: Run, name: str) -> None:
    ran = splitlearn(name, "-h")

    assert ran.code == 0
    assert VERBS[name].line in ran.out
    assert f"SPLITLEARN_{name.upper().replace('-', '_')}_" in ran.out


def test_help_imports_nothing_heavy_and_no_service() -> None:
    program = (
        "import sys; from splitlearn_cli.__main__ import main;"
        "assert main(['--help']) == 0; assert main(['trunk', '--help']) == 0;"
        "heavy = {'torch', 'transformers', 'grpc', 'httpx', 'uvicorn', 'tqdm', 'splitlearn_client',"
        " 'splitlearn_trunk.app'} & set(sys.modules);"
        "assert not heavy, heavy"
    )

    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr


def test_a_verb_whose_package_is_not_installed_says_so_and_the_others_work(
    splitlearn: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "splitlearn_cli.verbs.client", raising=False)
    monkeypatch.setitem(sys.modules, "splitlearn_client.settings", None)

    ran = splitlearn("client", "weights")

    assert ran.code == 1
    assert ran.err.count("\n") == 1
    assert "splitlearn_client" in ran.err
    assert splitlearn("trunk", "--help").code == 0


def test_the_version_is_that_of_the_distribution(splitlearn: Run) -> None:
    ran = splitlearn("--version")

    assert (ran.code, ran.out) == (0, version("splitlearn") + "\n")


def test_no_verb_shows_the_help_and_is_wrong_usage(splitlearn: Run) -> None:
    ran = splitlearn()

    assert ran.code == 2
    assert ran.out == ""
    assert "Commands:" in ran.err


def test_a_mistyped_verb_is_wrong_usage_with_a_suggestion(splitlearn: Run) -> None:
    ran = splitlearn("trnk")

    assert ran.code == 2
    assert ran.err.startswith("splitlearn: error: ")
    assert ran.err.count("\n") == 1
    assert "'trunk'" in ran.err


def test_an_unknown_flag_is_wrong_usage_and_points_to_the_verbs_help(splitlearn: Run) -> None:
    ran = splitlearn("trunk", "weights", "--colour", "red")

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "--colour" in ran.err
    assert "splitlearn trunk --help" in ran.err


def test_a_bad_value_is_wrong_usage_and_stops_before_the_service_is_imported(splitlearn: Run) -> None:
    ran = splitlearn("trunk", "weights", "--port", "99999")

    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert "--port" in ran.err
    assert "'99999'" in ran.err


def test_a_bad_global_variable_is_wrong_usage(splitlearn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPLITLEARN_LOG_FORMAT", "xml")

    ran = splitlearn("inspect", "weights")

    assert ran.code == 2
    assert "SPLITLEARN_LOG_FORMAT" in ran.err


def test_a_failure_is_one_line_without_traceback(splitlearn: Run, tmp_path: Path) -> None:
    ran = splitlearn("inspect", tmp_path / "missing")

    assert ran.code == 1
    assert ran.err.startswith("splitlearn: error: ")
    assert ran.err.count("\n") == 1
    assert "missing" in ran.err


@pytest.mark.parametrize("by", ["flag", "variable"])
def test_debug_shows_the_traceback_before_the_line(
    splitlearn: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    if by == "variable":
        monkeypatch.setenv("SPLITLEARN_DEBUG", "1")
    flags = ["--debug"] if by == "flag" else []

    ran = splitlearn(*flags, "inspect", tmp_path / "missing")

    assert ran.code == 1
    assert ran.err.startswith("Traceback")
    assert ran.err.splitlines()[-1].startswith("splitlearn: error: ")


def test_a_bug_ends_in_one_line_too(splitlearn: Run, capsys: pytest.CaptureFixture[str]) -> None:
    splitlearn("--version")

    sys.excepthook(KeyError, KeyError("x"), None)

    assert capsys.readouterr().err == "splitlearn: error: KeyError: 'x' (a bug; --debug shows where)\n"


def test_idle_threads_do_not_spin_unless_the_user_sets_it(splitlearn: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    splitlearn("--version")
    assert 0 < int(os.environ["GOMP_SPINCOUNT"]) <= 100_000

    monkeypatch.setenv("GOMP_SPINCOUNT", "1000000")
    splitlearn("--version")
    assert os.environ["GOMP_SPINCOUNT"] == "1000000"
