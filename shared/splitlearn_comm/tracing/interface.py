"""What services say about a request for traces, and the tracer for when nobody listens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from splitlearn_comm.errors import CommError
from splitlearn_comm.request_context import RequestContext

Attributes = Mapping[str, str | bool | int | float | Sequence[str]]
"""Never prompts or answers, nor what would give them away."""


class TracingUnavailable(CommError):
    """Traces are wanted, but the packages that export them are not installed."""

    code = "FAILED_PRECONDITION"
    fault = "operator"


class Span(Protocol):
    """One service's work on one request. Times are on the performance counter, in seconds."""

    @property
    def context(self) -> RequestContext:
        """For services that are called meanwhile: their spans become children of this one."""
        ...

    def set(self, attributes: Attributes) -> None: ...

    def child(self, name: str, began: float, ended: float, attributes: Attributes | None = None) -> None:
        """Adds a span that has ended already."""
        ...

    def end(self, error: str | None = None) -> None:
        """Must be called once. `error` names what went wrong, and quotes nobody."""
        ...


class Tracer(Protocol):
    """Starts spans. Used on the event loop's thread."""

    def start(self, name: str, context: RequestContext, began: float | None = None) -> Span:
        """A span of the caller's trace, if `context` names one, else of a new one."""
        ...

    def close(self) -> None:
        """Exports what has not been exported yet. Blocks for a few seconds at most."""
        ...


class NoTracer:
    """Records nothing, and passes a caller's trace on as it came."""

    def start(self, _name: str, context: RequestContext, _began: float | None = None) -> Span:
        return _NoSpan(context)

    def close(self) -> None:
        pass


class _NoSpan:
    def __init__(self, context: RequestContext) -> None:
        self._context = context

    @property
    def context(self) -> RequestContext:
        return self._context

    def set(self, attributes: Attributes) -> None:
        pass

    def child(self, name: str, began: float, ended: float, attributes: Attributes | None = None) -> None:
        pass

    def end(self, error: str | None = None) -> None:
        pass
