"""Cancels the work for a caller that has disconnected."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import ClientDisconnect
from starlette.types import Receive

R = TypeVar("R")


async def unless_disconnected(receive: Receive, work: Awaitable[R]) -> R:
    """The result of `work`. It is cancelled if the HTTP client disconnects, and has ended on return in any case.

    Raises:
        ClientDisconnect: the client disconnected first.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_disconnected(receive))
    for future in (working, leaving):
        future.add_done_callback(retrieve_error)
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()
        await asyncio.wait((working, leaving))


def retrieve_error(future: "asyncio.Future[Any]") -> None:
    """Retrieves the error of an abandoned future, which asyncio would report otherwise."""
    if not future.cancelled():
        future.exception()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
