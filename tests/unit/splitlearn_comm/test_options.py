import asyncio
from collections.abc import AsyncIterator
from typing import Any

import grpc.aio
import pytest

from splitlearn_comm.errors import InvalidAddress
from splitlearn_comm.options import MAX_MESSAGE_BYTES, Options, channel_options, channel_target, server_options
from support.faulty_link import faulty_link
from support.running_split import PATIENCE


@pytest.mark.parametrize(
    ("address", "target"),
    [
        ("trunk:50051", "dns:///trunk:50051"),
        ("127.0.0.1:50051", "dns:///127.0.0.1:50051"),
        ("[::1]:50051", "dns:///[::1]:50051"),
        ("dns:///trunk:50051", "dns:///trunk:50051"),
        ("unix:/run/trunk.sock", "unix:/run/trunk.sock"),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", "ipv4:10.0.0.1:1,10.0.0.2:1"),
        ("ipv6:[::1]:1", "ipv6:[::1]:1"),
    ],
)
def test_an_address_without_a_scheme_is_a_dns_name(address: str, target: str) -> None:
    assert channel_target(address) == target


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("http://trunk:50051", "http://trunk:50051 is not HOST:PORT"),
        ("trunk:50051/v1", "is not HOST:PORT"),
        ("trunk", "'trunk' has no port"),
        ("trunk:70000", "the port of 'trunk:70000' is not in the range 1 to 65535"),
        ("dns:///trunk:70000", "not in the range 1 to 65535"),
        ("ipv4:10.0.0.1:1,10.0.0.2:x", "the port of '10.0.0.2:x' is not a number"),
    ],
)
def test_an_address_that_cannot_be_is_refused_before_anything_is_asked(address: str, words: str) -> None:
    with pytest.raises(InvalidAddress, match=words):
        channel_target(address)


def test_both_ends_allow_the_same_message_size() -> None:
    for options in (dict(server_options()), dict(channel_options())):
        assert options["grpc.max_send_message_length"] == MAX_MESSAGE_BYTES
        assert options["grpc.max_receive_message_length"] == MAX_MESSAGE_BYTES


def test_the_server_bears_the_clients_pings() -> None:
    allowed = dict(server_options())["grpc.http2.min_recv_ping_interval_without_data_ms"]

    assert int(allowed) < int(dict(channel_options())["grpc.keepalive_time_ms"])


async def test_both_ends_notice_a_connection_on_which_nothing_gets_through() -> None:
    ended = asyncio.Event()

    async def echo(requests: AsyncIterator[bytes], _: Any) -> AsyncIterator[bytes]:
        try:
            async for request in requests:
                yield request
        finally:
            ended.set()

    server = grpc.aio.server(options=sooner(server_options()))
    handler = grpc.stream_stream_rpc_method_handler(echo)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with (
            faulty_link(port) as link,
            grpc.aio.insecure_channel(link.address, options=sooner(channel_options())) as channel,
        ):
            call = channel.stream_stream("/s/m")()
            await call.write(b"row")
            assert await call.read() == b"row"
            link.freeze()
            async with asyncio.timeout(PATIENCE):
                with pytest.raises(grpc.aio.AioRpcError) as raised:
                    await call.read()
                await ended.wait()
            assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    finally:
        await server.stop(0)


def sooner(options: Options) -> Options:
    """The same with times of pings that a test has time for."""
    return tuple(
        (name, int(value) // 20 if "keepalive" in name or "ping_" in name else value) for name, value in options
    )


async def test_what_connects_and_does_not_speak_http2_is_closed() -> None:
    options = dict(server_options())
    assert options["grpc.server_handshake_timeout_ms"] == 10_000
    options["grpc.server_handshake_timeout_ms"] = 100
    server = grpc.aio.server(options=tuple(options.items()))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE):
        while await reader.read(2**16):
            pass
    writer.close()
    await server.stop(None)
