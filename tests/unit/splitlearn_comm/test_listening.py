"""Ports of a grpc server: a free one, a busy one, an address of another machine."""

import socket

import grpc.aio
import pytest

from splitlearn_comm.errors import PortUnavailable
from splitlearn_comm.listening import add_plain_port


async def test_port_zero_becomes_a_free_one() -> None:
    server = grpc.aio.server()
    port = await add_plain_port(server, "127.0.0.1", 0)
    assert port > 0
    await server.start()
    await server.stop(None)


async def test_where_it_cannot_listen_the_reason_is_the_operating_systems() -> None:
    # grpc shares ports unless it is told not to
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable, match=rf"cannot listen on 127\.0\.0\.1:{port}: .*taken"):
            await add_plain_port(server, "127.0.0.1", port)
    with pytest.raises(PortUnavailable, match=r"cannot listen on 192\.0\.2\.1:0: "):
        await add_plain_port(server, "192.0.2.1", 0)
    await server.start()
    await server.stop(None)
