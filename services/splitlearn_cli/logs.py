"""Output and format of log lines; the services only call `structlog.get_logger()`.

Log lines of libraries that use the standard logging module are treated the same.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, Literal

import structlog
from structlog.typing import Processor

LogFormat = Literal["auto", "console", "json"]
LogLevel = Literal["debug", "info", "warning", "error"]

# They log each request and each file at info, which would drown the services' own lines.
# huggingface_hub has used httpx2 since its version 2.
_CHATTY: Final = (
    "httpx",
    "httpx2",
    "httpcore",
    "httpcore2",
    "filelock",
    "urllib3",
    "huggingface_hub",
    "asyncio",
    "matplotlib",
)


class _StderrHandler(logging.Handler):
    """Looks up sys.stderr for each line, because a progress bar or a test may replace it."""

    def emit(self, record: logging.LogRecord) -> None:
        print(self.format(record), file=sys.stderr, flush=True)


def configure(log_format: LogFormat, level: LogLevel) -> None:
    """Sends all log lines of this process to stderr; a second call replaces the first.

    Args:
        log_format: "console" for people, "json" for one object per line; "auto" is console if stderr is a terminal,
            else json.
        level: the lowest level to show.
    """
    console = log_format == "console" or (log_format == "auto" and sys.stderr.isatty())
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.processors.TimeStamper(fmt="%H:%M:%S" if console else "iso", utc=not console),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=False,
    )
    handler = _StderrHandler()
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *_renderers(console)],
        )
    )
    root = logging.getLogger()
    for earlier in [old for old in root.handlers if isinstance(old, _StderrHandler)]:
        root.removeHandler(earlier)
    root.addHandler(handler)
    root.setLevel(level.upper())
    for name in _CHATTY:
        logging.getLogger(name).setLevel(level.upper() if level in ("debug", "error") else "WARNING")


@contextmanager
def quiet() -> Iterator[None]:
    """Shows errors alone: for services that run for a while as a part of a verb's own work."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(max(level, logging.ERROR))
    try:
        yield
    finally:
        root.setLevel(level)


def _renderers(console: bool) -> list[Processor]:
    if console:
        return [
            structlog.dev.ConsoleRenderer(
                colors=sys.stderr.isatty(),
                pad_event_to=0,
                exception_formatter=structlog.dev.plain_traceback,
            )
        ]
    return [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(default=str)]
