import grpc
import pytest

from splitlearn_comm import errors
from splitlearn_comm.errors import ERRORS_BY_KIND, CommError


def descendants(parent: type[CommError]) -> set[type[CommError]]:
    return {parent}.union(
        *(descendants(child) for child in parent.__subclasses__() if child.__module__ == errors.__name__)
    )


def test_every_error_of_the_tree_can_be_named_on_the_wire() -> None:
    assert set(ERRORS_BY_KIND.values()) == descendants(CommError) - {CommError}
    assert all(name == error.__name__ for name, error in ERRORS_BY_KIND.items())


@pytest.mark.parametrize("error", ERRORS_BY_KIND.values())
def test_the_printed_tree_tells_each_errors_code_and_fault(error: type[CommError]) -> None:
    line = next(line for line in (errors.__doc__ or "").splitlines() if f" {error.__name__} " in line)

    assert line.split(error.__name__)[1].split()[:2] == [error.code, error.fault]
    assert error.code in grpc.StatusCode.__members__


def test_an_error_is_its_message() -> None:
    error = errors.Overloaded("8 of 8 sessions are open; try again")

    assert str(error) == error.message == "8 of 8 sessions are open; try again"
