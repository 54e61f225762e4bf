import errno
import sys

import pytest
import typer

from splitlearn.errors import BadPlan, SplitError
from splitlearn_command.extras import MissingExtra
from splitlearn_command.failures import Program, bug, failure_of, foreseen


class Unusable(Exception):
    pass


BREW = Program("brew", Unusable, {"splitlearn.errors": "SplitError"})


@pytest.mark.parametrize("error", [SplitError("sorry"), BadPlan("no such layer")])
def test_a_root_that_the_program_names_and_what_is_below_it_end_with_their_own_words(error: Exception) -> None:
    assert isinstance(error, foreseen(BREW))
    assert failure_of(error, BREW).message == str(error)
    assert failure_of(error, BREW).exit_code == 1


def test_a_bug_is_not_foreseen_and_its_line_names_it() -> None:
    assert not isinstance(KeyError("x"), foreseen(BREW))
    assert bug(KeyError("x")).message == "KeyError: 'x' (a bug; --debug shows where)"


@pytest.mark.parametrize("error", [Unusable("no"), typer.BadParameter("no")])
def test_wrong_usage_is_foreseen_and_exits_with_2(error: Exception) -> None:
    assert isinstance(error, foreseen(BREW))
    assert failure_of(error, BREW).exit_code == 2


def test_a_message_of_several_lines_becomes_one() -> None:
    assert failure_of(SplitError("first\n  second\n"), BREW).message == "first second"


def test_a_file_error_names_the_file() -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file", "there")

    assert failure_of(error, BREW).message == "there: No such file"


def test_a_system_error_without_a_file_keeps_its_own_words() -> None:
    assert failure_of(OSError("nobody listens"), BREW).message == "nobody listens"


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ModuleNotFoundError("No module named 'mamba'", name="mamba"), "mamba"),
        (MissingExtra(["fastapi", "uvicorn"], "client"), 'fastapi, uvicorn: pip install "splitlearn[client]"'),
    ],
)
def test_what_is_not_installed_is_named(error: Exception, said: str) -> None:
    assert isinstance(error, foreseen(BREW))
    assert said in failure_of(error, BREW).message
    assert failure_of(error, BREW).exit_code == 1


def test_looking_errors_up_imports_no_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "splitlearn.errors")

    assert SplitError not in foreseen(BREW)
    assert "splitlearn.errors" not in sys.modules
