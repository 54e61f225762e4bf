"""Processes that `up` starts: other verbs of this command, their log files, and their end.

A child never outlives its parent: it asks the kernel for SIGTERM when the parent is gone, however it went.
"""

import ctypes
import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from splitlearn_cli.errors import ChildFailed

PARENT_VARIABLE: Final = "SPLITLEARN_PARENT_PID"
_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h
_LAST_LINES: Final = 10


def end_with_parent(parent: int) -> None:
    """Has this process told to stop when `parent` ends; Linux only, elsewhere it is left to the parent."""
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:  # it ended before the kernel was asked
        os.kill(os.getpid(), signal.SIGTERM)


class Child:
    """One running verb. The parent owns it, and has to terminate it and wait for it.

    Args:
        name: the verb.
        arguments: its flags.
        log: the file that gets its stdout and stderr; its log lines are JSON.
    """

    def __init__(self, name: str, arguments: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._read_to = 0
        self._address: str | None = None
        level = logging.getLevelName(logging.getLogger().level).lower()
        command = [sys.executable, "-m", "splitlearn_cli", "--log-format", "json", "--log-level", level, name]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, PARENT_VARIABLE: str(os.getpid())},
                # away from the terminal: its Ctrl-C goes to the parent alone, which stops children in order
                start_new_session=True,
            )

    def address(self) -> str | None:
        """HOST:PORT, once the child has logged that it can be asked there, if only whether it is ready.

        Raises:
            ChildFailed: the child has ended.
        """
        self.check()
        if self._address is None:
            with self.log.open("rb") as file:
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read_to += len(line)
                    event = _event(line.decode(errors="replace"))
                    if event.get("event") in ("listening", "serving"):
                        self._address = str(event["address"])
        return self._address

    def check(self) -> None:
        """Raises:
        ChildFailed: the child has ended; the message is its own reason, if it gave one.
        """
        code = self._process.poll()
        if code is not None:
            raise _ending(self.name, code, self.log.read_text(errors="replace").splitlines())

    def terminate(self) -> None:
        """Tells it to stop, and returns at once."""
        self._process.terminate()

    def wait(self, timeout: float) -> None:
        """Returns when it has ended; after `timeout` seconds it is killed."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _ending(name: str, code: int, log_lines: Sequence[str]) -> ChildFailed:
    """A run of this command that fails ends its log with one line of reason; one that was killed does not."""
    reason_mark = "splitlearn: error: "
    if log_lines and log_lines[-1].startswith(reason_mark):
        return ChildFailed(f"{name}: {log_lines[-1].removeprefix(reason_mark)}", ())
    how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ChildFailed(f"the {name} {how}", [_readable(line) for line in log_lines[-_LAST_LINES:]])


def _event(line: str) -> dict[str, Any]:
    """A JSON log line; empty for whatever else a process may print."""
    try:
        event = json.loads(line)
    except ValueError:
        return {}
    return event if isinstance(event, dict) else {}


def _readable(line: str) -> str:
    event = _event(line)
    if not event:
        return line
    details = [f"{key}={value}" for key, value in event.items() if key not in ("event", "timestamp", "level")]
    return " ".join([str(event.get("event", "")), *details])
