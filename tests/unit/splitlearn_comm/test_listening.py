"""Where a server can listen, and what is to blame where it cannot."""

import socket
from contextlib import suppress

import pytest

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.errors import InvalidAddress, PortUnavailable
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost


def _has_ipv6() -> bool:
    with suppress(OSError), socket.create_server(("::1", 0), family=socket.AF_INET6):
        return True
    return False


IPV6 = _has_ipv6()


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("192.0.2.1", 0, r"192\.0\.2\.1 is not an address of this machine; listen on one that is"),
        ("2001:db8::1", 7, r"cannot listen on \[2001:db8::1\]:7: 2001:db8::1 is not an address of this machine or"),
        ("nobody.invalid", 0, "the host 'nobody.invalid' does not resolve on this machine"),
    ],
)
async def test_a_host_that_cannot_be_listened_on_is_to_blame_and_not_the_port(host: str, port: int, words: str) -> None:
    with pytest.raises(PortUnavailable, match=words):
        await AsyncGRPCComputeServer(session_host=EchoSessionHost(), host=host, port=port).start()


@pytest.mark.parametrize("host", ["two words", "1.2.3", "::1::", "", "a:b"])
def test_a_host_that_cannot_be_is_refused_at_once(host: str) -> None:
    with pytest.raises(InvalidAddress):
        AsyncGRPCComputeServer(session_host=EchoSessionHost(), host=host)


@pytest.mark.skipif(not IPV6, reason="this machine has no IPv6")
@pytest.mark.parametrize("host", ["::1", "::", "[::1]"])
async def test_a_server_listens_on_ipv6_and_says_so_in_brackets(host: str) -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), host=host) as server:
        address = f"[::1]:{server.port}"
        async with AsyncGRPCComputeClient(address) as client:
            assert (await client.service_info()).service_name == "echo"
            assert repr(client) == f"<AsyncGRPCComputeClient {address} 0 streams>"
        assert repr(server) == f"<AsyncGRPCComputeServer [{host.strip('[]')}]:{server.port} listening>"

        second = AsyncGRPCComputeServer(session_host=EchoSessionHost(), host=host, port=server.port)
        with pytest.raises(PortUnavailable, match=rf"\]:{server.port} is taken by another process"):
            await second.start()
