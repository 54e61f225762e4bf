"""The client's streams for Compute, kept for the next call, because opening one takes longer than using it."""

from __future__ import annotations

import time
from collections.abc import Callable

from splitlearn_comm.byte_stream import ByteStream

_REUSE_SECONDS = 30.0


class ComputeStreams:
    """As many streams as there were calls at a time; each carries one call, so calls never wait for each other.

    Args:
        open_stream: opens one more.
        reuse_seconds: after its opening a stream is not used again. It stays on its connection, and a new one goes
            to the replicas and addresses that are there by then.
    """

    def __init__(self, open_stream: Callable[[], ByteStream], reuse_seconds: float = _REUSE_SECONDS) -> None:
        self._open_stream = open_stream
        self._reuse_seconds = reuse_seconds
        # With the time after which each is not used again; the latest used last.
        self._idle: list[tuple[ByteStream, float]] = []

    async def exchange(self, request: bytes, timeout: float | None) -> bytes:
        """The server's reply to `request`. A stream that failed, timed out or was cancelled is not used again."""
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
