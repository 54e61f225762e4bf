"""A TCP relay on loopback that a test can freeze, cut and heal: a network or a frozen process, as its peer sees it."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

from splitlearn_client.serving.listening import stop_accepting

_PIECE = 2**16
_TURNS = 10


class FaultyLink:
    """Relays connections to `port` of loopback. Use it by `faulty_link`."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._relays: set[asyncio.Task[None]] = set()
        self._copies: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self.port = 0
        self.delay = 0.0
        """Seconds that each piece of data takes longer."""

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def freeze(self) -> None:
        """From here on nothing gets through in either direction, and no connection ends."""
        self._flowing.clear()

    def thaw(self) -> None:
        """What was held back gets through, and everything after it."""
        self._flowing.set()

    def cut(self) -> None:
        """Resets all connections; new ones are relayed."""
        for writer in list(self._writers):
            linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
            # one that has just been closed has no options any more
            with suppress(OSError):
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            writer.transport.abort()

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection of a client in a task of its own."""
        relaying = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relaying)
        relaying.add_done_callback(self._relays.discard)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers, both = [writer], list[asyncio.Task[None]]()
        try:
            self._writers.add(writer)
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
                writers.append(far_writer)
                self._writers.add(far_writer)
                both = [asyncio.create_task(self._copy(*ends)) for ends in ((reader, far_writer), (far_reader, writer))]
                self._copies.update(both)
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in both:
                task.cancel()
                self._copies.discard(task)
            for each in writers:
                each.close()
            # those that still have something to send stay known, so that `cut` reaches them
            for each in writers:
                with suppress(OSError):
                    await each.wait_closed()
                self._writers.discard(each)

    async def end(self) -> None:
        """Resets all connections, those too that are just being made."""
        self.thaw()
        # asyncio takes some turns from a connection that the kernel has accepted to the call of `accept`
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        while self._relays:
            self.cut()
            for copy in self._copies:
                copy.cancel()
            await asyncio.wait(self._relays, timeout=0.1)

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_PIECE):
                if self.delay:
                    await asyncio.sleep(self.delay)
                await self._flowing.wait()
                writer.write(data)
                await writer.drain()


@asynccontextmanager
async def faulty_link(port: int) -> AsyncIterator[FaultyLink]:
    """A link to a port of loopback, listening on one of its own."""
    link = FaultyLink(port)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        await stop_accepting([server])
        server.close()
        await link.end()
