"""What a command says when something goes wrong: one line, and what to do about it."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass

from typer import TyperException

from command_line.extras import MissingExtra


@dataclass(frozen=True)
class Program:
    """A command, as its entry point describes it.

    Args:
        name: what the user types, and what each line of an error begins with.
        wrong_usage: the error of flags or settings that make no sense; it ends a run with 2.
        error_roots: module -> the root of the errors in it that end a run with one line. They are looked up among the
            modules that are loaded: one that is not has raised nothing.
    """

    name: str
    wrong_usage: type[Exception]
    error_roots: Mapping[str, str]


@dataclass(frozen=True)
class Failure:
    """How a run ends: one line for the terminal and the exit code."""

    message: str
    exit_code: int


def foreseen(program: Program) -> tuple[type[BaseException], ...]:
    """The errors that end a run with one line; everything else is a bug."""
    roots = program.error_roots.items()
    loaded = (getattr(sys.modules[module], name) for module, name in roots if module in sys.modules)
    return (program.wrong_usage, TyperException, OSError, MissingExtra, ModuleNotFoundError, *loaded)


def failure_of(error: BaseException, program: Program) -> Failure:
    """What to tell about an error that `foreseen` names."""
    if isinstance(error, TyperException):
        return Failure(_one_line(error.format_message() + _where_to_look(error)), error.exit_code)
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return Failure(_one_line(f"{error.filename}: {error.strerror}"), 1)
    if isinstance(error, ModuleNotFoundError):
        return Failure(f"this needs the module {error.name}, which is not installed here", 1)
    return Failure(_one_line(str(error)), 2 if isinstance(error, program.wrong_usage) else 1)


def bug(error: BaseException) -> Failure:
    """The line for an error that nobody foresaw."""
    return Failure(_one_line(f"{type(error).__name__}: {error} (a bug; --debug shows where)"), 1)


def _where_to_look(error: TyperException) -> str:
    context = getattr(error, "ctx", None)
    return f" (see {context.command_path} --help)" if context is not None else ""


def _one_line(text: str) -> str:
    return " ".join(text.split())
