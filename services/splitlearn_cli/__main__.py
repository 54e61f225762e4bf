"""The entry point of `splitlearn`: process-wide settings, and the handling of errors."""

import os
import signal
import sys
from collections.abc import Sequence
from types import TracebackType
from typing import Any, Final

from splitlearn.parent_process import end_with_parent
from splitlearn_cli.children import PARENT_VARIABLE
from splitlearn_cli.command import command
from splitlearn_cli.errors import BadUsage
from splitlearn_command.failures import Program, bug
from splitlearn_command.invocation import Invocation

# Read once, when torch loads its OpenMP library. Trunk and client on one machine alternate token by token: threads that
# spin while they wait for work take the cores from the other process, and threads that sleep wake up late. Of 0 to
# 500000 iterations, 20000 to 100000 gave most tokens per second, and fewer let the event loop answer sooner beside a
# long prompt. This bridges the gap between two operators, and not that between two tokens.
_SPIN_COUNT: Final = "20000"

PROGRAM: Final = Program(
    name="splitlearn",
    wrong_usage=BadUsage,
    error_roots={
        "splitlearn_cli.errors": "CliError",
        "llm_sepweight.errors": "SepweightError",
        "splitlearn.errors": "SplitError",
        "splitlearn_comm.errors": "CommError",
        "splitlearn_client.errors": "RequestError",
        "splitlearn_privacy.errors": "PrivacyReportError",
        # of texts, and of shadows
        "cleangpt.errors": "CleangptError",
    },
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one verb, and returns the exit code. An unexpected error ends in one line too."""
    os.environ.setdefault("GOMP_SPINCOUNT", _SPIN_COUNT)
    # A hub is asked for files, and told nothing else: huggingface_hub would also ask for a list of agents, and say
    # under which of them it runs.
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    if parent := os.environ.pop(PARENT_VARIABLE, None):
        end_with_parent(int(parent), signal.SIGTERM)
    invocation = Invocation(PROGRAM)
    sys.excepthook = _excepthook(invocation)
    return invocation.run(command, argv)


def _excepthook(invocation: Invocation) -> Any:
    def report(_kind: type[BaseException], error: BaseException, _trace: TracebackType | None) -> None:
        invocation.tell(error, bug(error))

    return report


if __name__ == "__main__":
    sys.exit(main())
