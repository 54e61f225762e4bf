"""The events that a server reports for counting."""

from __future__ import annotations

from typing import Protocol


class WireObserver(Protocol):
    """Called on the event loop, once per event: implementations count and return."""

    def session_opened(self) -> None: ...

    def session_closed(self) -> None:
        """Once for every session_opened, after the session has been closed."""
        ...

    def bytes_in(self, count: int) -> None:
        """Payload of one protobuf message, without gRPC and HTTP/2 framing."""
        ...

    def bytes_out(self, count: int) -> None: ...

    def refused(self, kind: str) -> None:
        """An open, a frame or a compute was answered with an error. `kind` is the name of its CommError."""
        ...


class NoObserver:
    """Counts nothing."""

    def session_opened(self) -> None:
        pass

    def session_closed(self) -> None:
        pass

    def bytes_in(self, count: int) -> None:
        pass

    def bytes_out(self, count: int) -> None:
        pass

    def refused(self, kind: str) -> None:
        pass
