from importlib import import_module

import pytest

from splitlearn.errors import BadPlan
from splitlearn_cli.__main__ import PROGRAM
from splitlearn_cli.errors import BadUsage, ChildFailed, CliError
from splitlearn_comm.errors import Unreachable
from splitlearn_command.failures import failure_of, foreseen


@pytest.mark.parametrize("module", PROGRAM.error_roots)
def test_every_error_root_is_where_the_command_looks_for_it(module: str) -> None:
    assert issubclass(getattr(import_module(module), PROGRAM.error_roots[module]), Exception)


@pytest.mark.parametrize("error", [BadPlan("no"), Unreachable("no"), CliError("no"), ChildFailed("no", ())])
def test_errors_of_the_packages_end_a_run_with_1(error: Exception) -> None:
    assert isinstance(error, foreseen(PROGRAM))
    assert failure_of(error, PROGRAM).exit_code == 1


def test_wrong_usage_ends_a_run_with_2() -> None:
    assert failure_of(BadUsage("no"), PROGRAM).exit_code == 2
