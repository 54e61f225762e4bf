"""Clients that know a server by the fingerprint of its certificate."""

import asyncio
import socket
import ssl
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import grpc
import pytest

from splitlearn_comm.certificates import CertifiedKey, self_signed
from splitlearn_comm.errors import BadCertificates, InvalidAddress, TimedOut, Unreachable
from splitlearn_comm.pinned import pinned_server, server_credentials
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost
from support.running_split import free_port
from support.tls import NOW, EchoClient, echo_server, why_refused


@pytest.fixture(scope="module")
def pair() -> CertifiedKey:
    return self_signed(NOW)


async def test_the_right_fingerprint_connects(pair: CertifiedKey) -> None:
    async with echo_server(server_credentials(pair)) as address:
        server = await pinned_server(address, pair.fingerprint)
        async with EchoClient(address, server.credentials, server.options) as client:
            assert await client.echo(b"row") == b"row"


async def test_a_pin_serves_any_number_of_connections(pair: CertifiedKey) -> None:
    async with echo_server(server_credentials(pair)) as address:
        server = await pinned_server(address, pair.fingerprint.upper())
    async with echo_server(server_credentials(pair)) as address:
        for _ in range(2):
            async with EchoClient(address, server.credentials, server.options) as client:
                assert await client.echo() == b"hello"


async def test_another_certificate_is_refused_before_anything_is_sent(pair: CertifiedKey) -> None:
    async with echo_server(server_credentials(self_signed(NOW))) as address:
        with pytest.raises(BadCertificates, match=f"not {pair.fingerprint[:16]}.*copy the line again"):
            await pinned_server(address, pair.fingerprint)


async def test_who_steps_in_between_after_the_comparison_is_refused(pair: CertifiedKey) -> None:
    async with echo_server(server_credentials(pair)) as address:
        server = await pinned_server(address, pair.fingerprint)
    # same name, same issuer, another key
    async with echo_server(server_credentials(self_signed(NOW))) as address:
        refused = await why_refused(address, server.credentials, server.options)
    assert refused.code() == grpc.StatusCode.UNAVAILABLE
    assert "CERTIFICATE_VERIFY_FAILED" in str(refused.details())


async def test_an_expired_pinned_certificate_is_refused(pair: CertifiedKey) -> None:
    expired = self_signed(NOW - timedelta(days=2), days=1)
    async with echo_server(server_credentials(expired)) as address:
        server = await pinned_server(address, expired.fingerprint)
        assert (await why_refused(address, server.credentials, server.options)).code() == grpc.StatusCode.UNAVAILABLE


async def test_a_server_without_tls_is_told_apart(pair: CertifiedKey) -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server:
        with pytest.raises(BadCertificates, match=r"does not speak TLS.*--insecure"):
            await pinned_server(f"127.0.0.1:{server.port}", pair.fingerprint)


async def test_no_server_is_unreachable(pair: CertifiedKey) -> None:
    with pytest.raises(Unreachable, match="no answer from"):
        await pinned_server(f"127.0.0.1:{free_port()}", pair.fingerprint)


async def test_a_server_that_says_nothing_is_not_waited_for(pair: CertifiedKey) -> None:
    # connects without anybody accepting
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with pytest.raises(TimedOut, match=r"within 0\.2 s"):
            await pinned_server(f"127.0.0.1:{port}", pair.fingerprint, timeout=0.2)


async def test_a_server_that_does_not_end_the_connection_is_left(pair: CertifiedKey, tmp_path: Path) -> None:
    file = tmp_path / "both.pem"
    file.write_bytes(pair.key + pair.certificate)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_alpn_protocols(["h2"])
    context.load_cert_chain(file)

    def accepted(listening: socket.socket) -> ssl.SSLSocket:
        return context.wrap_socket(listening.accept()[0], server_side=True)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        accepting = asyncio.create_task(asyncio.to_thread(accepted, listening))
        await pinned_server(f"127.0.0.1:{listening.getsockname()[1]}", pair.fingerprint)
        with await accepting as connection, socket.socket(fileno=connection.detach()) as raw:
            raw.settimeout(5.0)
            with suppress(ConnectionResetError):
                # its farewell, and then its end
                while await asyncio.to_thread(raw.recv, 4096):
                    pass


async def test_an_address_that_is_none_is_refused(pair: CertifiedKey) -> None:
    with pytest.raises(InvalidAddress):
        await pinned_server("worker", pair.fingerprint)
