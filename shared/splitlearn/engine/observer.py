"""How an engine reports what it does, for metrics."""

import logging
from collections.abc import Callable
from typing import Any, Protocol

log = logging.getLogger(__name__)


class EngineObserver(Protocol):
    """Called on the event loop's thread; must be quick."""

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        """A step ran `n_rows` rows of `n_sessions` sessions."""
        ...

    def reused(self, n_rows: int) -> None:
        """A session began with `n_rows` cached rows."""
        ...

    def preempted(self) -> None:
        """A session lost its pages to one that is older, or to one that waited while it was idle."""
        ...

    def expired(self) -> None:
        """An idle session lost its pages."""
        ...


class NoObserver:
    """Ignores everything."""

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        pass

    def reused(self, n_rows: int) -> None:
        pass

    def preempted(self) -> None:
        pass

    def expired(self) -> None:
        pass


class Guarded:
    """Passes everything on. An error that the observer raises is logged, and fails no request."""

    def __init__(self, observer: EngineObserver) -> None:
        self._observer = observer

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        self._call(self._observer.step_done, n_sessions, n_rows, seconds)

    def reused(self, n_rows: int) -> None:
        self._call(self._observer.reused, n_rows)

    def preempted(self) -> None:
        self._call(self._observer.preempted)

    def expired(self) -> None:
        self._call(self._observer.expired)

    def _call(self, method: Callable[..., None], *args: Any) -> None:
        try:
            method(*args)
        except Exception:
            log.exception("the engine's observer failed")
