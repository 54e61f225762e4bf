"""What the command line says when something goes wrong: one line, and what to do about it.

    CliError                 exit 1
    ├── BadUsage             exit 2, the caller: a flag's value, or flags that contradict each other
    ├── ServiceUnreachable   the operator: nothing answers at the address, or not in time
    ├── ServiceRefused       the service: it answered with an error; `code` is the service's own
    └── ChildFailed          `up` only: a process that it started did not come up, or ended by itself

The packages' own errors are looked up among the modules that are loaded: one that is not has raised nothing.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from typer import TyperException

_PACKAGE_ROOTS: Final = {
    "llm_sepweight.errors": "SepweightError",
    "splitlearn.errors": "SplitError",
    "splitlearn_comm.errors": "CommError",
    "client_service.errors": "RequestError",
}


class CliError(Exception):
    """Root of this package's errors."""

    exit_code = 1


class BadUsage(CliError):
    """The command line or the environment asks for something that makes no sense."""

    exit_code = 2


class ServiceUnreachable(CliError):
    """Nobody answers at the address."""


class ServiceRefused(CliError):
    """The service answered with an error. `code` is its machine-readable name, empty if it gave none."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ChildFailed(CliError):
    """A process that `up` started is gone. `last_lines` end its log; empty where it gave its own reason."""

    def __init__(self, message: str, last_lines: Sequence[str]) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)


@dataclass(frozen=True)
class Failure:
    """How a run ends: one line for the terminal and the exit code."""

    message: str
    exit_code: int


def foreseen() -> tuple[type[BaseException], ...]:
    """The errors that end a run with one line; everything else is a bug."""
    roots = (getattr(sys.modules[module], name) for module, name in _PACKAGE_ROOTS.items() if module in sys.modules)
    return (CliError, TyperException, OSError, ModuleNotFoundError, *roots)


def failure_of(error: BaseException) -> Failure:
    """What to tell about an error that `foreseen` names."""
    if isinstance(error, CliError):
        return Failure(_one_line(str(error)), error.exit_code)
    if isinstance(error, TyperException):
        return Failure(_one_line(error.format_message() + _where_to_look(error)), error.exit_code)
    if isinstance(error, OSError):
        return Failure(_one_line(_of_system(error)), 1)
    if isinstance(error, ModuleNotFoundError):
        install = "pip install 'splitlearn[trunk,client]'"
        return Failure(f"this verb needs the package {error.name}, which is not installed here: {install}", 1)
    return Failure(_one_line(str(error)), 1)


def bug(error: BaseException) -> Failure:
    """The line for an error that nobody foresaw."""
    return Failure(_one_line(f"{type(error).__name__}: {error} (a bug; --debug shows where)"), 1)


def _of_system(error: OSError) -> str:
    if error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def _where_to_look(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
