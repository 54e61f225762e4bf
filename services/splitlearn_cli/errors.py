"""The errors of the command. `splitlearn_command.failures` prints each as one line.

CliError                 exit 1
├── BadUsage             exit 2, the caller: an invalid value, or flags that contradict each other
├── ServiceUnreachable   the operator: nothing answers at the address, or too late
├── ServiceRefused       the service: it answered with an error; `code` is the service's own
└── ChildFailed          `up` only: a child process did not start, ended, or cannot serve
"""

from collections.abc import Sequence


class CliError(Exception):
    """Root of this package's errors."""


class BadUsage(CliError):
    """The command line or the environment has invalid or contradictory values."""


class ServiceUnreachable(CliError):
    """Nothing answers at the address."""


class ServiceRefused(CliError):
    """The service answered with an error. `code` is the error's code; empty if it has none."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class ChildFailed(CliError):
    """A child process of `up` has ended, or reports that it cannot serve.

    `last_lines` are those of its log; empty if the message has the reason.
    """

    def __init__(self, message: str, last_lines: Sequence[str]) -> None:
        super().__init__(message)
        self.last_lines = tuple(last_lines)
