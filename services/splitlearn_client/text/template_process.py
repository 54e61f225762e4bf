"""Runs a chat template in a separate process, with limits on time and memory."""

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import jinja2
import markupsafe

import splitlearn_client
from splitlearn_client.confined_process import ConfinedProcess, LimitExceeded

_WORKER: Final = Path(__file__).with_name("template_worker.py")
# Per rendering. A conversation of a megabyte takes a tenth of a second.
CPU_SECONDS: Final = 2.0
# By the clock, for a process that is hardly scheduled.
WALL_SECONDS: Final = 30.0
MEMORY_BYTES: Final = 1 << 30


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
        self._process: ConfinedProcess | None = None

    def start(self) -> None:
        """Compiles the template, unless it is compiled. Blocks.

        Raises:
            TemplateUnusable: it is no template.
            TemplateUnbounded: compiling it exceeds the limits.
            ProcessFailed: the process ended, and the template is not to blame.
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
            ProcessFailed: as `start`.
        """
        with self._turn:
            process = self._started()
            return _ask(process, {"variables": variables, "longest": longest}, longest)

    def _started(self) -> ConfinedProcess:
        if self._broken is not None:
            raise self._broken
        if self._process is not None and self._process.lives:
            return self._process
        self._process = ConfinedProcess(
            _WORKER,
            [str(self._memory_bytes), str(self._cpu_seconds)],
            (jinja2, markupsafe, splitlearn_client),
            cpu_seconds=self._cpu_seconds,
            wall_seconds=self._wall_seconds,
        )
        try:
            _ask(self._process, {"source": self._source}, 0)
        except TemplateFailed as error:
            # the same source would fail again
            unbounded, self._process = isinstance(error, TemplateUnbounded), None
            self._broken = error if unbounded else TemplateUnusable(str(error))
            raise self._broken from None
        return self._process


def _ask(process: ConfinedProcess, request: Mapping[str, Any], longest: int) -> str:
    """The template's text, of at most `longest` characters."""
    try:
        # a character takes at most 12 bytes in JSON; the rest is for an error's reason
        reply = process.ask(request, 12 * longest + 8192)
    except LimitExceeded as error:
        raise TemplateUnbounded(str(error)) from None
    if "error" in reply:
        raise TemplateFailed(str(reply["error"]))
    return str(reply["text"])
