"""Lines of a stream of server-sent events."""

from collections.abc import Iterator


class Lines:
    """Cuts bytes into lines at newlines alone.

    JSON may carry characters such as U+2028 unescaped, at which Python's and httpx's own line splitting would cut.
    """

    def __init__(self) -> None:
        self._open = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes."""
        *whole, self._open = (self._open + data).split(b"\n")
        yield from whole
