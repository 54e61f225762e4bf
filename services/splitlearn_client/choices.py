"""Several streams at once, as one."""

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Final, TypeVar

T = TypeVar("T")

# of the items that nobody has taken yet, for each stream: who reads slowly keeps the streams waiting
_WAITING: Final = 2


class _End:
    """Says that a stream has ended, and of what it failed."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error


async def merged(streams: Sequence[AsyncGenerator[T]], at_once: int) -> AsyncGenerator[tuple[int, T]]:
    """The items of all streams as they come, with the number of their stream.

    Args:
        at_once: streams that run; the others begin as these end.

    Raises:
        Exception: whatever a stream raises; the others are closed then, as they are when this one is.
    """
    queue: asyncio.Queue[tuple[int, T | _End]] = asyncio.Queue(_WAITING * len(streams))
    places = asyncio.Semaphore(at_once)

    async def run(number: int, stream: AsyncGenerator[T]) -> None:
        error = None
        try:
            async with places, aclosing(stream):
                async for item in stream:
                    await queue.put((number, item))
        except Exception as raised:  # noqa: BLE001 - goes to the caller
            error = raised
        await queue.put((number, _End(error)))

    tasks = [asyncio.create_task(run(number, stream)) for number, stream in enumerate(streams)]
    try:
        n_running = len(tasks)
        while n_running:
            number, item = await queue.get()
            if not isinstance(item, _End):
                yield number, item
            elif item.error is not None:
                raise item.error
            else:
                n_running -= 1
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
