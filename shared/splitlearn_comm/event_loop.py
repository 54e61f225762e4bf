"""The event loop of a process that uses the network: uvloop's, or asyncio's own if uvloop is not installed.

And what asyncio leaves to its callers."""

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

_T = TypeVar("_T")


def new_event_loop() -> asyncio.AbstractEventLoop:
    """A loop that the caller runs and closes."""
    try:
        import uvloop
    except ModuleNotFoundError:
        logging.getLogger(__name__).info("uvloop is not installed: asyncio's own event loop runs, which is slower")
        return asyncio.new_event_loop()
    loop: asyncio.AbstractEventLoop = uvloop.new_event_loop()
    return loop


def run(main: Coroutine[Any, Any, _T]) -> _T:
    """Like `asyncio.run`."""
    with asyncio.Runner(loop_factory=new_event_loop) as runner:
        return runner.run(main)


def expire(timeout: asyncio.Timeout) -> None:
    """End what the timeout bounds. One that has expired already may still clean up: then nothing changes."""
    if not timeout.expired():
        timeout.reschedule(asyncio.get_running_loop().time())
