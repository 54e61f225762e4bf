"""Turns errors into one line on the terminal and an exit code."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from typer import TyperException

from splitlearn_command.extras import MissingExtra


@dataclass(frozen=True)
class Program:
    """A command.

    Args:
        name: the command's name, which its error lines begin with.
        wrong_usage: the error of invalid flags or settings; its exit code is 2.
        error_roots: module -> root of its errors that end a run with one line. Only loaded modules are looked up,
            because others cannot have raised an error.
    """

    name: str
    wrong_usage: type[Exception]
    error_roots: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """The end of a failed run: one line for the terminal, and the exit code."""

    message: str
    exit_code: int


def foreseen(program: Program) -> tuple[type[BaseException], ...]:
    """The errors that end a run with one line; all others are bugs."""
    roots = program.error_roots.items()
    loaded = (getattr(sys.modules[module], name) for module, name in roots if module in sys.modules)
    return (program.wrong_usage, TyperException, OSError, MissingExtra, ModuleNotFoundError, *loaded)


def failure_of(error: BaseException, program: Program) -> Failure:
    """The failure for an error that `foreseen` includes."""
    if isinstance(error, TyperException):
        return Failure(_one_line(error.format_message() + _where_to_look(error)), error.exit_code)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return Failure(_one_line(f"{error.filename}: {error.strerror}"), 1)
    if isinstance(error, ModuleNotFoundError):
        return Failure(f"this needs the module {error.name}, which is not installed here", 1)
    return Failure(_one_line(str(error)), 2 if isinstance(error, program.wrong_usage) else 1)


def bug(error: BaseException) -> Failure:
    """The failure for an unexpected error."""
    return Failure(_one_line(f"{type(error).__name__}: {error} (a bug; --debug shows where)"), 1)


def _where_to_look(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
