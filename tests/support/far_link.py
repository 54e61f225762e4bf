"""A far network on loopback: a TCP relay with delay, jitter, bandwidth, and connections that break, by a seed.

Each direction is a line of its own. What arrives is on the wire for its bytes' time at the line's bandwidth, behind
what was sent before it, and comes out half a round trip later, in order. The clock is the event loop's.
"""

import asyncio
import random
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass

from splitlearn_client.serving.listening import stop_accepting

_PIECE = 2**14
_MOST_WAITING = 2**22
_TURNS = 10


@dataclass(frozen=True)
class Network:
    """How far the other end is.

    Attributes:
        round_trip: seconds there and back, for a byte alone.
        jitter: seconds that a piece may come later, at most, in each direction.
        up: bytes a second towards the server; None for no bound.
        down: bytes a second from it.
        breaks_after: seconds after which a connection is reset, on average; half as many at least. None for never.
        seed: of jitter and breaks.
    """

    round_trip: float
    jitter: float = 0.0
    up: float | None = None
    down: float | None = None
    breaks_after: float | None = None
    seed: int | str = 0


class Line:
    """One direction: when a piece comes out at the other end. Plain numbers, on one clock."""

    def __init__(self, delay: float, jitter: float, bandwidth: float | None, dice: random.Random) -> None:
        self._delay, self._jitter, self._bandwidth, self._dice = delay, jitter, bandwidth, dice
        self._free, self._latest = 0.0, 0.0

    def arrival(self, now: float, n_bytes: int) -> float:
        """Of a piece that enters now."""
        self._free = max(self._free, now) + (n_bytes / self._bandwidth if self._bandwidth else 0.0)
        # in order, as TCP has it
        self._latest = max(self._latest, self._free + self._delay + self._dice.uniform(0.0, self._jitter))
        return self._latest


class FarLink:
    """Relays connections to `port` of loopback. Use it by `far_link`."""

    def __init__(self, port: int, network: Network) -> None:
        self.network = network
        self.port = 0
        self.n_breaks = 0
        self._target = port
        self._dice = random.Random(network.seed)
        self._relays: set[asyncio.Task[None]] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serves one connection of a client in a task of its own."""
        relaying = asyncio.create_task(self._relay(reader, writer))
        self._relays.add(relaying)
        relaying.add_done_callback(self._relays.discard)

    async def end(self) -> None:
        """Resets all connections, those too that are just being made."""
        # asyncio takes some turns from a connection that the kernel has accepted to the start of its task
        for _ in range(_TURNS):
            await asyncio.sleep(0)
        for task in list(self._relays):
            task.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_writer: asyncio.StreamWriter | None = None
        try:
            with suppress(OSError):
                far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
                for each in (writer, far_writer):
                    each.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                network = self.network
                pipes = [
                    self._pipe(reader, far_writer, network.up),
                    self._pipe(far_reader, writer, network.down),
                ]
                await self._until_broken([asyncio.create_task(pipe) for pipe in pipes])
        finally:
            ends = [each for each in (writer, far_writer) if each is not None]
            for each in ends:
                each.transport.abort()
            for each in ends:
                with suppress(OSError):
                    await each.wait_closed()

    async def _until_broken(self, pipes: "list[asyncio.Task[None]]") -> None:
        mean = self.network.breaks_after
        timeout = None if mean is None else mean * self._dice.uniform(0.5, 1.5)
        try:
            ended, _ = await asyncio.wait(pipes, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            self.n_breaks += not ended
        finally:
            for pipe in pipes:
                pipe.cancel()
            await asyncio.gather(*pipes, return_exceptions=True)

    async def _pipe(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, bandwidth: float | None) -> None:
        network, loop = self.network, asyncio.get_running_loop()
        line = Line(network.round_trip / 2, network.jitter, bandwidth, self._dice)
        on_the_wire: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(_MOST_WAITING // _PIECE)

        async def deliver() -> None:
            while True:
                due, piece = await on_the_wire.get()
                if (left := due - loop.time()) > 0:
                    await asyncio.sleep(left)
                writer.write(piece)
                await writer.drain()
                on_the_wire.task_done()

        delivering = asyncio.create_task(deliver())
        try:
            while piece := await reader.read(_PIECE):
                await on_the_wire.put((line.arrival(loop.time(), len(piece)), piece))
            await on_the_wire.join()
        finally:
            delivering.cancel()
            await asyncio.wait({delivering})


@asynccontextmanager
async def far_link(port: int, network: Network) -> AsyncIterator[FarLink]:
    """A relay to `port` that listens on a free port of loopback."""
    link = FarLink(port, network)
    server = await asyncio.start_server(link.accept, "127.0.0.1", 0)
    link.port = server.sockets[0].getsockname()[1]
    try:
        yield link
    finally:
        await stop_accepting([server])
        server.close()
        await link.end()


@contextmanager
def far_away(port: int, network: Network) -> Iterator[str]:
    """The address of such a relay, which runs on a thread of its own."""
    loop, ready, ending = asyncio.new_event_loop(), threading.Event(), asyncio.Event()
    addresses: list[str] = []

    async def serve() -> None:
        async with far_link(port, network) as link:
            addresses.append(link.address)
            ready.set()
            await ending.wait()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    ready.wait()
    try:
        yield addresses[0]
    finally:
        loop.call_soon_threadsafe(ending.set)
        thread.join()
        loop.close()
