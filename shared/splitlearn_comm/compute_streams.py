"""The client's Compute streams, kept for the next call, because opening a stream takes longer than using it."""

from __future__ import annotations

import time
from collections.abc import Callable

from splitlearn_comm.byte_stream import ByteStream

_REUSE_SECONDS = 30.0


class ComputeStreams:
    """A pool with one stream per concurrent call. A stream carries one call at a time, so calls never wait for others.

    Args:
        open_stream: opens another stream.
        reuse_seconds: how long after its opening a stream is reused. A stream stays on its connection, whereas a new
            one goes to the replicas and addresses that exist by then.
    """

    def __init__(self, open_stream: Callable[[], ByteStream], reuse_seconds: float = _REUSE_SECONDS) -> None:
        self._open_stream = open_stream
        self._reuse_seconds = reuse_seconds
        # Streams, each with the time after which it is not reused; most recently used last.
        self._idle: list[tuple[ByteStream, float]] = []

    async def exchange(self, request: bytes, timeout: float | None) -> bytes:
        """The server's reply to `request`. A stream that failed, timed out or was cancelled is not reused."""
        stream, useful_until = self._take()
        answered = False
        try:
            reply = await stream.exchange(request, timeout)
            answered = True
        finally:
            if answered:
                self._idle.append((stream, useful_until))
            else:
                stream.cancel()
        return reply

    def _take(self) -> tuple[ByteStream, float]:
        now = time.monotonic()
        while self._idle:
            stream, useful_until = self._idle.pop()
            if not stream.ended and now < useful_until:
                return stream, useful_until
            stream.cancel()
        return self._open_stream(), now + self._reuse_seconds
