"""Runs a chat template in a separate process, with limits on time and memory."""

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
# Per rendering. A conversation of a megabyte takes a tenth of a second.
CPU_SECONDS: Final = 2.0
# By the clock; limits a process that is not scheduled too.
WALL_SECONDS: Final = 30.0
MEMORY_BYTES: Final = 1 << 30
# The only environment variable that a template's process gets: the time zone.
_PASSED_ON: Final = ("TZ",)


class TemplateFailed(Exception):
    """The template refuses its input, or fails on it; with the reason."""


class TemplateUnusable(TemplateFailed):
    """The source is no template."""


class TemplateUnbounded(TemplateFailed):
    """The template exceeded its limits, and its process was killed."""


@lru_cache(maxsize=4)
def template_process(source: str) -> "TemplateProcess":
    """The process of a template, shared by all services with the same template."""
    return TemplateProcess(source, cpu_seconds=CPU_SECONDS)


class TemplateProcess:
    """Renders one template, one call at a time; callers on other threads wait.

    A template that exceeds its limits kills its process, and the next rendering starts another. The process ends with
    this object.
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
        """Guards the attributes below."""
        self._broken: TemplateFailed | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Compiles the template, unless it is compiled. Blocks.

        Raises:
            TemplateUnusable: it is no template.
            TemplateUnbounded: compiling it exceeds the limits.
        """
        with self._turn:
            self._started()

    def render(self, variables: Mapping[str, Any], longest: int) -> str:
        """Renders the template. Blocks.

        Args:
            variables: the template's variables; JSON.
            longest: the most characters of the result.

        Raises:
            TemplateFailed: it failed, exceeded its limits, or is no template.
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
            # without site-packages, whose hooks take most of the start, and without the rest of the environment, which
            # may hold secrets
            [sys.executable, "-I", "-S", str(_WORKER), *limits, *sorted(packages)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        )
        weakref.finalize(self, _end, self._process)
        try:
            self._ask(self._process, {"source": self._source}, 0)
        except TemplateFailed as error:
            # the same source would fail again
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
    """The process's reply; None if it died, or its reply is too long."""
    requests, replies = _pipes(process)
    try:
        requests.write(len(body).to_bytes(8) + body)
        requests.flush()
    except OSError:
        return None
    length = int.from_bytes(replies.read(8))
    # a character takes at most 12 bytes in JSON; the rest is for an error's reason
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
