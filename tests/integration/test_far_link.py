import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import suppress

import pytest

from support.far_link import Line, Network, far_link


@pytest.mark.parametrize(
    ("bandwidth", "pieces", "arrivals"),
    [
        # of pieces that enter at a second and have some bytes
        (None, [(0, 1000), (1, 10)], [5, 6]),
        (100, [(0, 100), (0, 200), (10, 100)], [6, 8, 16]),
        (100, [(0, 1000), (2, 100)], [15, 16]),
    ],
)
def test_a_piece_waits_for_those_before_it_and_then_takes_half_a_round_trip(
    bandwidth: float | None, pieces: list[tuple[float, int]], arrivals: list[float]
) -> None:
    line = Line(5, 0.0, bandwidth, random.Random(0))
    assert [line.arrival(*piece) for piece in pieces] == arrivals


def test_jitter_keeps_the_order_and_follows_the_seed() -> None:
    def arrivals(seed: int) -> list[float]:
        line = Line(1, 3.0, None, random.Random(seed))
        return [line.arrival(now, 1) for now in range(50)]

    found = arrivals(1)
    assert found == sorted(found) == arrivals(1) != arrivals(2)
    assert all(now + 1 <= arrival <= now + 4 for now, arrival in enumerate(found))


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while piece := await reader.read(2**16):
            writer.write(piece)
    await closed(writer)


async def closed(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with suppress(ConnectionError):
        await writer.wait_closed()


@pytest.fixture
async def echo_port() -> AsyncIterator[int]:
    async with await asyncio.start_server(echo, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]


async def test_what_is_sent_comes_back_whole_and_not_before_its_time(echo_port: int) -> None:
    network, payload = Network(0.05, jitter=0.01, up=4e6, down=4e6), random.Random(1).randbytes(200_000)
    async with far_link(echo_port, network) as link:
        reader, writer = await asyncio.open_connection("127.0.0.1", link.port)
        began = asyncio.get_running_loop().time()
        writer.write(payload)
        assert await reader.readexactly(len(payload)) == payload
        # the last piece has gone both ways, and the first direction took all bytes' time
        assert asyncio.get_running_loop().time() - began >= 0.05 + len(payload) / 4e6
        await closed(writer)


async def talk_until_it_breaks(port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"x")
    with suppress(ConnectionError):
        while piece := await reader.read(1):
            writer.write(piece)
    await closed(writer)


async def test_connections_break_after_a_while(echo_port: int) -> None:
    async with far_link(echo_port, Network(0.0, breaks_after=0.01)) as link:
        await talk_until_it_breaks(link.port)
        assert link.n_breaks == 1
