"""A process of its own for work on what callers and model files bring, with limits on time and memory.

The process is a script that gets nothing of the environment but the time zone, and no packages but those that it is
started with. The script limits its own memory and processor time (`confined_worker`); here is the limit by the clock.
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

import structlog

from splitlearn_client.confined_worker import TOO_DEEP
from splitlearn_client.errors import ProcessFailed

log = structlog.get_logger()

# The only environment variable of this process that such a process gets: the time zone.
_PASSED_ON: Final = ("TZ",)
# numpy would reserve memory for a thread on each core, which may be all that the process is allowed
_ENVIRONMENT: Final = {"OPENBLAS_NUM_THREADS": "1"}


# What ends a process that exceeds its own limits: on its memory or its stack, by the system or by a library.
_LIMITS: Final = frozenset({-signal.SIGSEGV, -signal.SIGABRT, -signal.SIGBUS})


class LimitExceeded(Exception):
    """The work exceeded a limit; with the reason."""


class ResultTooDeep(LimitExceeded):
    """The result is nested too deeply to be passed on. The process goes on."""


class ConfinedProcess:
    """Starts the script, which has to do what `confined_worker` does. It ends with this object, or when it exceeds a
    limit. Not for several threads at a time.

    Args:
        script: a file of this package.
        arguments: the script's own arguments, before the folders of `packages`.
        packages: the packages that it imports.
        cpu_seconds: the limit that the script sets itself, for the reason of its end.
        wall_seconds: of one request, by the clock. Only a process that is hardly scheduled exceeds it, so it has to be
            many times `cpu_seconds`.

    Raises:
        ProcessFailed: the system starts no process.
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
        self._script = script
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        folders = {str(Path(package.__file__ or "").parents[1]) for package in packages}
        try:
            self._process = subprocess.Popen(
                # without site-packages, whose hooks take most of the start, and without the rest of the environment,
                # which may hold secrets
                [sys.executable, "-I", "-S", str(script), *arguments, *sorted(folders)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**_ENVIRONMENT, **{name: os.environ[name] for name in _PASSED_ON if name in os.environ}},
            )
        except OSError as error:
            raise process_failed(script, f"could not be started ({error.strerror})") from error
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
        """The process's reply, of at most so many bytes. Blocks. After any error but `ResultTooDeep` it is gone.

        Raises:
            ResultTooDeep: the reply is nested more deeply than this thread's stack allows.
            LimitExceeded: the work exceeded a limit, or its reply is too long.
            ProcessFailed: the process ended by itself, was ended by another, or was not scheduled.
        """
        body = json.dumps(request).encode()
        is_late, process = threading.Event(), self._process

        def give_up() -> None:
            is_late.set()
            process.kill()

        watch = threading.Timer(self._wall_seconds, give_up)
        watch.daemon = True
        watch.start()
        try:
            reply = _exchange(process, body, longest)
        except LimitExceeded:
            _end(process)
            raise
        finally:
            watch.cancel()
        if reply is None:
            raise self._cause_of_death(is_late=is_late.is_set())
        return _decoded(reply)

    def _cause_of_death(self, *, is_late: bool) -> LimitExceeded | ProcessFailed:
        _end(self._process)
        code = self._process.returncode
        if code == -signal.SIGPROF:
            return LimitExceeded(f"it ran for more than {self._cpu_seconds:g} s")
        if code in _LIMITS:
            return LimitExceeded(f"it needs too much memory or is nested too deeply ({signal.Signals(-code).name})")
        if is_late:
            why = f"did not answer within {self._wall_seconds:g} s, as the machine is too busy"
        else:
            why = f"ended ({signal.Signals(-code).name if code < 0 else f'exit code {code}'})"
        return process_failed(self._script, why)


def process_failed(script: Path, why: str) -> ProcessFailed:
    """Logs that a process cannot be asked, and says so to the request that has to do without it."""
    log.error("a confined process failed", script=script.name, reason=why)
    return ProcessFailed(
        f"a process of this service {why}; the request is not to blame: send it again later", retry_after=1.0
    )


def _exchange(process: "subprocess.Popen[bytes]", body: bytes, longest: int) -> bytes | None:
    """The process's reply; None if it died. Raises LimitExceeded if its reply is too long."""
    requests, replies = _pipes(process)
    try:
        requests.write(len(body).to_bytes(8) + body)
        requests.flush()
    except OSError:
        return None
    length = int.from_bytes(replies.read(8))
    if length > longest:
        raise LimitExceeded(f"its result has more than {longest} bytes")
    answer = replies.read(length)
    return answer if 0 < length == len(answer) else None


def _decoded(reply: bytes) -> dict[str, Any]:
    try:
        found = dict(json.loads(reply))
    except RecursionError:
        found = TOO_DEEP
    if found == TOO_DEEP:
        raise ResultTooDeep("its result is nested too deeply")
    return found


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
