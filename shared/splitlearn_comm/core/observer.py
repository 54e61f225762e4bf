"""The events that a server reports for counting."""

from __future__ import annotations

from typing import Protocol


class WireObserver(Protocol):
    """Called on the event loop, once per event: implementations count and return."""

    def session_opened(self) -> None: ...

    def session_closed(self) -> None:
        """Once for every session_opened, after the session has been closed."""
        ...

    def bytes_in(self, count: int, codec: str) -> None:
        """Payload of one protobuf message, without gRPC and HTTP/2 framing.

        `codec`, a key of CODECS, is the one that the session's opening or the compute asks for; "none" for a message
        without a known one. Its tensor may be unencoded nevertheless, where the codec would not make it smaller.
        """
        ...

    def bytes_out(self, count: int, codec: str) -> None: ...

    def refused(self, kind: str) -> None:
        """An open, a frame or a compute was answered with an error. `kind` is the name of its CommError."""
        ...


class NoObserver:
    """Counts nothing."""

    def session_opened(self) -> None:
        pass

    def session_closed(self) -> None:
        pass

    def bytes_in(self, count: int, codec: str) -> None:
        pass

    def bytes_out(self, count: int, codec: str) -> None:
        pass

    def refused(self, kind: str) -> None:
        pass
