"""Stop working for a browser or program that has gone away."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request
from starlette.requests import ClientDisconnect

R = TypeVar("R")


async def unless_disconnected(request: Request, work: Awaitable[R]) -> R:
    """The result of `work`, which is cancelled as soon as the HTTP client hangs up.

    Raises:
        ClientDisconnect: it hung up first; nobody is left to answer.
    """
    working = asyncio.ensure_future(work)
    leaving = asyncio.ensure_future(_hung_up(request))
    try:
        await asyncio.wait((working, leaving), return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ClientDisconnect
        return working.result()
    finally:
        leaving.cancel()
        working.cancel()


async def _hung_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
