"""Cancels the work for a caller that has disconnected."""

import asyncio
from collections.abc import AsyncGenerator, Awaitable
from contextlib import aclosing, suppress
from typing import Any, TypeVar

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope, Send

R = TypeVar("R")


async def unless_disconnected(receive: Receive, work: Awaitable[R]) -> R:
    """The result of `work`. It is cancelled if the HTTP client disconnects, and has ended on return in any case.

    Raises:
        ClientDisconnect: the client disconnected first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    for future in (working, leaving):
        future.add_done_callback(_retrieve_error)
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait((working, leaving))


class EventStream(StreamingResponse):
    """Server-sent events, until the HTTP client disconnects. Owns the generator of events, and closes it."""

    def __init__(self, first: str, rest: AsyncGenerator[str]) -> None:
        super().__init__(_joined(first, rest), media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._rest = rest

    async def __call__(self, _scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(self._rest):
            with suppress(ClientDisconnect):
                await unless_disconnected(receive, self.stream_response(send))


async def _joined(first: str, rest: AsyncGenerator[str]) -> AsyncGenerator[str]:
    yield first
    async for event in rest:
        yield event


def _retrieve_error(future: "asyncio.Future[Any]") -> None:
    """Retrieves the error of an abandoned future, which asyncio would report otherwise."""
    if not future.cancelled():
        future.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
