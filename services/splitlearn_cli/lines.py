"""Splits a stream of server-sent events into lines."""

from collections.abc import Iterator


class Lines:
    """Splits bytes into lines, at newlines only.

    JSON may have characters such as U+2028 unescaped, at which Python's and httpx's own functions would split too.
    """

    def __init__(self) -> None:
        self._open = b""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The lines that `data` completes."""
        *whole, self._open = (self._open + data).split(b"\n")
        yield from whole
