import asyncio
import socket
from collections.abc import Callable
from typing import Any

from splitlearn_comm.testing import EchoSessionHost, loopback

Run = Callable[..., Any]


async def test_a_trunk_is_asked_what_it_serves(splitlearn: Run) -> None:
    async with loopback(session_host=EchoSessionHost()) as (_, client):
        ran = await asyncio.to_thread(splitlearn, "info", client.target)

        assert ran.code == 0, ran.err
        rows = dict(line.split(maxsplit=1) for line in ran.out.splitlines() if len(line.split()) > 1)
        info = await client.service_info()
        assert rows["service"] == f"{info.service_name} {info.version}"
        assert rows["device"] == info.device
        assert rows["health"] == "serving"


async def test_a_trunk_that_does_not_serve_is_a_failure(splitlearn: Run) -> None:
    async with loopback(session_host=EchoSessionHost()) as (server, client):
        await server.set_serving(False)
        ran = await asyncio.to_thread(splitlearn, "info", client.target)

    assert ran.code == 1
    assert "not serving" in ran.out


def test_an_unreachable_address_is_one_line(splitlearn: Run) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"127.0.0.1:{free.getsockname()[1]}"

    ran = splitlearn("info", address)

    assert ran.code == 1
    assert address in ran.err
    assert ran.err.count("\n") == 1
