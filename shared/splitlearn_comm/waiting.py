"""The server's sign that it has not forgotten a frame: a reply without an outcome, sent while the frame waits its turn.

The client's timeout is for a server that says nothing at all, not for one with many frames to compute.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, Protocol, runtime_checkable

# A StreamReply without an outcome takes no bytes.
WAITING: Final = b""
SECONDS: Final = 0.5
# How many a slow network may deliver together.
MOST_AT_ONCE: Final = 64


@runtime_checkable
class TellsProgress(Protocol):
    """A session that knows whether its host makes progress."""

    def gets_on(self) -> bool:
        """Whether the current frame is waiting its turn, or the host has done other work since the last call, or asks
        another one whose silence has a timeout of its own.

        If not, the client's timeout should run.
        """
        ...


@asynccontextmanager
async def told_to_wait(session: TellsProgress | None, write: Callable[[bytes], Awaitable[None]]) -> AsyncIterator[None]:
    """While the body runs, tell the client periodically that its frame is waiting, if there is a session that says so.

    Nothing else may be written meanwhile. What is being written at the end is left to `write`, which is cancelled.
    """
    if session is None:
        yield
        return
    telling: asyncio.Task[None] | None = None

    def begin() -> None:
        nonlocal telling
        telling = asyncio.create_task(_tell(session, write))

    # most frames are answered sooner, and need no task
    timer = asyncio.get_running_loop().call_later(SECONDS, begin)
    try:
        yield
    finally:
        timer.cancel()
        if telling is not None:
            telling.cancel()
            await asyncio.wait({telling})


async def _tell(session: TellsProgress, write: Callable[[bytes], Awaitable[None]]) -> None:
    while True:
        if session.gets_on():
            try:
                await write(WAITING)
            except Exception:  # noqa: BLE001 (the stream is over, which its own handler will notice)
                return
        await asyncio.sleep(SECONDS)
