"""Child processes of `up`, which run other verbs: their log files, and their end.

A child never outlives its parent: the kernel sends it SIGTERM when the parent ends for any reason.
"""

import json
import logging
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from splitlearn_cli.errors import ChildFailed

PARENT_VARIABLE: Final = "SPLITLEARN_PARENT_PID"
_LAST_LINES: Final = 10


class Child:
    """One running verb. The parent owns it, and must terminate it and wait for it.

    Args:
        name: the verb.
        arguments: its flags.
        log: the file for its stdout and stderr; log lines are JSON.
        environment: its whole environment; None for this process's.
    """

    def __init__(
        self, name: str, arguments: Sequence[str], log: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.name = name
        self.log = log
        self._read_to = 0
        self._announced: dict[str, Any] | None = None
        level = logging.getLevelName(logging.getLogger().level).lower()
        command = [sys.executable, "-m", "splitlearn_cli", "--log-format", "json", "--log-level", level, name]
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                [*command, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**(os.environ if environment is None else environment), PARENT_VARIABLE: str(os.getpid())},
                # without the terminal: Ctrl-C reaches only the parent, which stops its children in order
                start_new_session=True,
            )

    def announced(self) -> dict[str, Any] | None:
        """What the child has logged of where it listens: `address` is HOST:PORT, and `page` the URL of a client's page.

        None before; it need not be ready after it.

        Raises:
            ChildFailed: the child has ended.
        """
        self.check()
        if self._announced is None:
            with self.log.open("rb") as file:
                file.seek(self._read_to)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._read_to += len(line)
                    event = _event(line.decode(errors="replace"))
                    if event.get("event") in ("listening", "serving"):
                        self._announced = event
        return self._announced

    def check(self) -> None:
        """Raises:
        ChildFailed: the child has ended; the message has its reason, if it logged one.
        """
        code = self._process.poll()
        if code is not None:
            raise _ending(self.name, code, self.log.read_text(errors="replace").splitlines())

    def terminate(self) -> None:
        """Sends SIGTERM, and returns at once."""
        self._process.terminate()

    def wait(self, timeout: float) -> None:
        """Waits for its end, and kills it after `timeout` seconds."""
        try:
            self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def _ending(name: str, code: int, log_lines: Sequence[str]) -> ChildFailed:
    """The error for an ended child. A failed run's last line is its reason; a killed one has none."""
    reason_mark = "splitlearn: error: "
    if log_lines and log_lines[-1].startswith(reason_mark):
        return ChildFailed(f"{name}: {log_lines[-1].removeprefix(reason_mark)}", ())
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
    return ChildFailed(f"the {name} {how}", [_readable(line) for line in log_lines[-_LAST_LINES:]])


def _event(line: str) -> dict[str, Any]:
    """The fields of a JSON log line; empty for any other line."""
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
