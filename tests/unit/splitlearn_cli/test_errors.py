import errno
import os
import sys

import pytest
import typer

from llm_sepweight.errors import UnfinishedDirectoryError
from splitlearn.errors import BadPlan
from splitlearn_cli.errors import BadUsage, CliError, bug, failure_of, foreseen
from splitlearn_comm.errors import Unreachable


@pytest.mark.parametrize("error", [BadPlan("no such layer"), Unreachable("nobody"), CliError("sorry")])
def test_errors_of_the_packages_are_failures_with_their_own_words(error: Exception) -> None:
    assert isinstance(error, foreseen())
    assert failure_of(error).message == str(error)
    assert failure_of(error).exit_code == 1


def test_subclasses_of_a_package_error_are_foreseen(tmp_path: os.PathLike[str]) -> None:
    assert isinstance(UnfinishedDirectoryError(tmp_path), foreseen())  # type: ignore[arg-type]


def test_a_bug_is_not_foreseen_and_its_line_names_it() -> None:
    assert not isinstance(KeyError("x"), foreseen())
    assert bug(KeyError("x")).message == "KeyError: 'x' (a bug; --debug shows where)"


def test_wrong_usage_exits_with_2() -> None:
    assert failure_of(BadUsage("no")).exit_code == 2
    assert failure_of(typer.BadParameter("no")).exit_code == 2


def test_a_message_of_several_lines_becomes_one() -> None:
    assert failure_of(CliError("first\n  second\n")).message == "first second"


def test_a_file_error_names_the_file() -> None:
    assert failure_of(FileNotFoundError(errno.ENOENT, "No such file", "there")).message == "there: No such file"


def test_a_missing_package_is_named_with_the_way_to_install_it() -> None:
    failure = failure_of(ModuleNotFoundError("No module named 'fastapi'", name="fastapi"))

    assert "fastapi" in failure.message
    assert "pip install" in failure.message


def test_looking_errors_up_imports_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "splitlearn.errors")

    foreseen()

    assert "splitlearn.errors" not in sys.modules
