"""A chat template under limits of time and size, in a process of its own."""

import json
import os
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, Final

import jinja2
import markupsafe

_WORKER: Final = Path(__file__).with_name("template_worker.py")
# Of one rendering. A conversation of a megabyte takes a tenth of a second.
CPU_SECONDS: Final = 2.0
# By the clock; also holds for a process that is not scheduled.
WALL_SECONDS: Final = 30.0
MEMORY_BYTES: Final = 1 << 30
# All that a template may know of this process's environment: what time it is here.
_PASSED_ON: Final = ("TZ",)


class TemplateFailed(Exception):
    """The template refuses what it was given, or fails on it; with the reason."""


class TemplateUnusable(TemplateFailed):
    """It is no template, whatever it is given."""


class TemplateUnbounded(TemplateFailed):
    """It went past its limits, which ended its process."""


@lru_cache(maxsize=4)
def template_process(source: str) -> "TemplateProcess":
    """The process of a template, started when it is first asked for; one for all who serve the same template."""
    return TemplateProcess(source, cpu_seconds=CPU_SECONDS)


class TemplateProcess:
    """Renders one template. One rendering at a time; callers on other threads wait.

    A process that went past its limits is dead, and the next rendering starts another. It ends with its owner.
    """

    def __init__(
        self,
        source: str,
        *,
        cpu_seconds: float = CPU_SECONDS,
        wall_seconds: float = WALL_SECONDS,
        memory_bytes: int = MEMORY_BYTES,
    ) -> None:
        self._source = source
        self._cpu_seconds = cpu_seconds
        self._wall_seconds = wall_seconds
        self._memory_bytes = memory_bytes
        self._turn = threading.Lock()
        """Held by the thread that uses what follows."""
        self._broken: TemplateFailed | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Compiles the template, unless that is done; blocking.

        Raises:
            TemplateUnusable: it is no template.
            TemplateUnbounded: it does not compile within its limits.
        """
        with self._turn:
            self._started()

    def render(self, variables: Mapping[str, Any], longest: int) -> str:
        """The template's text for these variables; blocking.

        Args:
            variables: what the template sees; JSON.
            longest: the most characters that it may make.

        Raises:
            TemplateFailed: it made no text within its limits, or is no template.
        """
        with self._turn:
            process = self._started()
            return self._ask(process, {"variables": variables, "longest": longest}, longest)

    def _started(self) -> "subprocess.Popen[bytes]":
        if self._broken is not None:
            raise self._broken
        if self._process is not None and self._process.poll() is None:
            return self._process
        packages = {str(Path(package.__file__ or "").parents[1]) for package in (jinja2, markupsafe)}
        limits = [str(self._memory_bytes), str(self._cpu_seconds)]
        self._process = subprocess.Popen(
            # without site-packages, whose hooks take longer to start than all the rest; and without the rest of the
            # environment, in which there may be secrets
            [sys.executable, "-I", "-S", str(_WORKER), *limits, *sorted(packages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        )
        weakref.finalize(self, _end, self._process)
        try:
            self._ask(self._process, {"source": self._source}, 0)
        except TemplateFailed as error:
            # the same source would fail the same way
            unbounded = isinstance(error, TemplateUnbounded)
            self._broken = error if unbounded else TemplateUnusable(str(error))
            raise self._broken from None
        return self._process

    def _ask(self, process: "subprocess.Popen[bytes]", request: Mapping[str, Any], longest: int) -> str:
        body = json.dumps(request).encode()
        watch = threading.Timer(self._wall_seconds, process.kill)
        watch.daemon = True
        watch.start()
        try:
            reply = _exchange(process, body, longest)
        finally:
            watch.cancel()
        if reply is None:
            raise TemplateUnbounded(self._cause_of_death(process))
        if "error" in reply:
            raise TemplateFailed(str(reply["error"]))
        return str(reply["text"])

    def _cause_of_death(self, process: "subprocess.Popen[bytes]") -> str:
        _end(process)
        if process.returncode == -signal.SIGPROF:
            return f"it ran for more than {self._cpu_seconds:g} s"
        if process.returncode == -signal.SIGKILL:
            return f"it did not end within {self._wall_seconds:g} s"
        return f"it ended its process (exit code {process.returncode})"


def _exchange(process: "subprocess.Popen[bytes]", body: bytes, longest: int) -> dict[str, Any] | None:
    """The process's reply; None if it died, or answers with more than it may."""
    requests, replies = _pipes(process)
    try:
        requests.write(len(body).to_bytes(8) + body)
        requests.flush()
    except OSError:
        return None
    length = int.from_bytes(replies.read(8))
    # a character takes at most 12 bytes in JSON; the rest is for a reason
    if not 0 < length <= 12 * longest + 8192:
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
