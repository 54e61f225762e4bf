"""What a server sends in one call. A message that its client does not read stays in gRPC, whoever waits for it.

While one is pending gRPC takes neither another message nor a status, and has no way to end a call from this end.
"""

from __future__ import annotations

import asyncio

import grpc.aio


class Outgoing:
    """The messages of one call. One is written at a time: gRPC refuses a second, and the call ends without a word."""

    def __init__(self, context: grpc.aio.ServicerContext) -> None:
        self._context = context
        self._pending: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        """Return once gRPC can send the message, at the latest when the client has read those before it.

        If the caller is cancelled while gRPC has the message, it is sent nevertheless, before the next one.

        Raises:
            CancelledError: the client is gone.
        """
        if self._pending is not None:
            await _written(asyncio.shield(self._pending))
        self._pending = asyncio.ensure_future(self._context.write(data))
        self._pending.add_done_callback(_seen)
        await _written(asyncio.shield(self._pending))

    async def read(self) -> None:
        """Return once no message is pending. Raises CancelledError if the client is gone."""
        if self._pending is not None:
            await _written(self._pending)


async def _written(pending: asyncio.Future[None]) -> None:
    try:
        await pending
    except grpc.aio.InternalError as error:
        # gRPC cancels the call, too, but not before this
        raise asyncio.CancelledError from error


def _seen(pending: asyncio.Future[None]) -> None:
    """Nobody may be waiting for it any more."""
    if not pending.cancelled():
        pending.exception()
