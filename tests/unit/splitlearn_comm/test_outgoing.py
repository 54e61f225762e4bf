"""What a server sends in one call, with a client that reads when it is told to."""

import asyncio
from contextlib import suppress
from typing import Any

from splitlearn_comm.outgoing import Outgoing


class Context:
    """Takes a message when the client reads, and refuses another one before that, as gRPC does."""

    def __init__(self) -> None:
        self.sent: list[bytes] = []
        self._is_writing = asyncio.Event()
        self._pending: asyncio.Future[None] | None = None

    async def write(self, data: bytes) -> None:
        assert self._pending is None, "a message is being written"
        self._pending = asyncio.get_running_loop().create_future()
        self._is_writing.set()
        await self._pending
        self.sent.append(data)

    async def read(self) -> None:
        """The client reads a message."""
        await self._is_writing.wait()
        self._is_writing.clear()
        pending, self._pending = self._pending, None
        assert pending is not None
        pending.set_result(None)


async def some_turns() -> None:
    """Of the event loop, in which everything happens that can."""
    for _ in range(5):
        await asyncio.sleep(0)


async def test_a_message_is_written_after_one_whose_writer_has_left() -> None:
    context: Any = Context()
    outgoing = Outgoing(context)
    first = asyncio.create_task(outgoing.write(b"first"))
    await some_turns()
    first.cancel()
    with suppress(asyncio.CancelledError):
        await first
    second = asyncio.create_task(outgoing.write(b"second"))
    await some_turns()
    await context.read()
    await context.read()
    await second
    await outgoing.read()
    assert context.sent == [b"first", b"second"]


async def test_a_writer_that_leaves_before_its_turn_sends_nothing() -> None:
    context: Any = Context()
    outgoing = Outgoing(context)
    writing = [asyncio.create_task(outgoing.write(data)) for data in (b"first", b"second")]
    await some_turns()
    writing[1].cancel()
    await context.read()
    await asyncio.wait(writing)
    assert not writing[0].cancelled()
    assert writing[1].cancelled()
    assert context.sent == [b"first"]
