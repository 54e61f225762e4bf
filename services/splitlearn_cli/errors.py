"""The error tree of the command. `command_line.failures` makes one line of each.

CliError                 exit 1
├── BadUsage             exit 2, the caller: a flag's value, or flags that contradict each other
├── ServiceUnreachable   the operator: nothing answers at the address, or not in time
├── ServiceRefused       the service: it answered with an error; `code` is the service's own
└── ChildFailed          `up` only: a process that it started did not come up, ended by itself, or cannot serve
"""

from collections.abc import Sequence


class CliError(Exception):
    """Root of this package's errors."""


class BadUsage(CliError):
    """The command line or the environment asks for something that makes no sense."""


class ServiceUnreachable(CliError):
    """Nobody answers at the address."""


class ServiceRefused(CliError):
    """The service answered with an error. `code` is its machine-readable name, empty if it gave none."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ChildFailed(CliError):
    """A process that `up` started is gone, or says that it cannot serve.

    `last_lines` end its log; empty where it gave its own reason.
    """

    def __init__(self, message: str, last_lines: Sequence[str]) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)
