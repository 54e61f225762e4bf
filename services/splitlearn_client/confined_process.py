"""A process of its own for work on what callers and model files bring, with limits on time and memory.

The process is a script that gets no environment, and no packages but those that it is started with. Requests and
replies are JSON, each after its length in 8 bytes. The script limits its own memory and processor time; here is the
limit by the clock.
"""

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import IO, Any, Final

# The only environment variable that such a process gets: the time zone.
_PASSED_ON: Final = ("TZ",)


class ProcessDied(Exception):
    """The process exceeded its limits or ended by itself, and is gone; with the reason."""


class ConfinedProcess:
    """Starts the script; it ends with this object, or when it exceeds a limit. Not for several threads at a time.

    Args:
        script: a file of this package.
        arguments: the script's own arguments, before the folders of `packages`.
        packages: the packages that it imports.
        cpu_seconds: the limit that the script sets itself, for the reason of its end.
        wall_seconds: of one request, by the clock; limits a process that is not scheduled too.
    """

    def __init__(
        self,
        script: Path,
        arguments: Sequence[str],
        packages: Iterable[Any],
        *,
        cpu_seconds: float,
        wall_seconds: float,
    ) -> None:
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        folders = {str(Path(package.__file__ or "").parents[1]) for package in packages}
        self._process = subprocess.Popen(
            # without site-packages, whose hooks take most of the start, and without the rest of the environment, which
            # may hold secrets
            [sys.executable, "-I", "-S", str(script), *arguments, *sorted(folders)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        )
        weakref.finalize(self, _end, self._process)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def lives(self) -> bool:
        """Whether it can be asked."""
        return self._process.poll() is None

    def ask(self, request: Mapping[str, Any], longest: int) -> dict[str, Any]:
        """The process's reply, of at most so many bytes. Blocks.

        Raises:
            ProcessDied: it exceeded its limits, or its reply is too long.
        """
        body = json.dumps(request).encode()
        watch = threading.Timer(self._wall_seconds, self._process.kill)
        watch.daemon = True
        watch.start()
        try:
            reply = _exchange(self._process, body, longest)
        finally:
            watch.cancel()
        if reply is None:
            raise ProcessDied(self._cause_of_death())
        return reply

    def _cause_of_death(self) -> str:
        _end(self._process)
        if self._process.returncode == -signal.SIGPROF:
            return f"it ran for more than {self._cpu_seconds:g} s"
        if self._process.returncode == -signal.SIGKILL:
            return f"it did not end within {self._wall_seconds:g} s"
        return f"it ended its process (exit code {self._process.returncode})"


def _exchange(process: "subprocess.Popen[bytes]", body: bytes, longest: int) -> dict[str, Any] | None:
    """The process's reply; None if it died, or its reply is too long."""
    requests, replies = _pipes(process)
    try:
        requests.write(len(body).to_bytes(8) + body)
        requests.flush()
    except OSError:
        return None
    length = int.from_bytes(replies.read(8))
    if not 0 < length <= longest:
        return None
    answer = replies.read(length)
    return dict(json.loads(answer)) if len(answer) == length else None


def _pipes(process: "subprocess.Popen[bytes]") -> tuple[IO[bytes], IO[bytes]]:
    if process.stdin is None or process.stdout is None:
        raise RuntimeError("the process was started without pipes")
    return process.stdin, process.stdout


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in _pipes(process):
        try:
            pipe.close()
        except OSError:
            continue
