"""What an engine tells while it works."""

from typing import Protocol


class EngineObserver(Protocol):
    """Called on the event loop; must be quick."""

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        """A step ran `n_rows` rows of `n_sessions` sessions."""
        ...

    def reused(self, n_rows: int) -> None:
        """A session began with `n_rows` rows that were kept."""
        ...

    def preempted(self) -> None:
        """A session lost its pages to an older one."""
        ...

    def expired(self) -> None:
        """A session that nobody used lost its pages."""
        ...


class NoObserver:
    """Listens to nothing."""

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        pass

    def reused(self, n_rows: int) -> None:
        pass

    def preempted(self) -> None:
        pass

    def expired(self) -> None:
        pass
