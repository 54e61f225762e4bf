"""How a client connects: what it sends to whom, and what it refuses to send."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

import pytest

from splitlearn_comm import AsyncGRPCComputeClient, InvalidAddress, SessionOpening, Unreachable
from splitlearn_comm.access import Access, access_from
from splitlearn_comm.certificates import CertifiedKey, self_signed
from splitlearn_comm.errors import BadCertificates, BadToken, Unauthenticated
from splitlearn_comm.pinned import server_credentials
from splitlearn_comm.pinned_address import PinnedAddress
from splitlearn_comm.replicas.connecting import connection_to
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost
from splitlearn_comm.tls import TLSFiles
from splitlearn_comm.token_files import Tokens
from support.running_split import PATIENCE, free_port
from support.tls import NOW, authority, client_of, replace, save, worker_of

TOKEN, OTHER = "a-token-of-a-test", "another-token-of-it"


def pinned_server_at(pair: CertifiedKey, port: int = 0, token: str = TOKEN) -> AsyncGRPCComputeServer:
    return AsyncGRPCComputeServer(
        port=port, session_host=EchoSessionHost(), credentials=server_credentials(pair), tokens=Tokens(token)
    )


@pytest.fixture(scope="module")
def pair() -> CertifiedKey:
    return self_signed(NOW)


def pinned(pair: CertifiedKey, token: str = TOKEN) -> Access:
    return Access(token=lambda: token, fingerprint=pair.fingerprint)


async def test_a_pinned_worker_is_reached_with_its_token(pair: CertifiedKey) -> None:
    async with (
        pinned_server_at(pair) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", access=pinned(pair)) as client,
    ):
        assert (await client.service_info()).service_name == "echo"
        assert await client.health()
        async with client.stream(SessionOpening("one", "echo", 8)):
            pass


async def test_a_wrong_token_is_refused_by_every_call_over_the_same_connection(pair: CertifiedKey) -> None:
    async with (
        pinned_server_at(pair) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", access=pinned(pair, OTHER)) as client,
    ):
        for call in (client.service_info, client.health):
            with pytest.raises(Unauthenticated, match="asks for a token"):
                await call()
        with pytest.raises(Unauthenticated):
            await anext(client.watch_health())


async def test_a_pin_survives_a_restart_of_the_worker_and_no_other_certificate(pair: CertifiedKey) -> None:
    port = free_port()
    async with AsyncGRPCComputeClient(f"127.0.0.1:{port}", access=pinned(pair), timeout=5.0) as client:
        for _ in range(2):
            async with pinned_server_at(pair, port):
                await becomes(client.health)
            with pytest.raises(Unreachable):
                await client.health()
        async with pinned_server_at(self_signed(NOW), port):
            # the connection trusts the compared certificate alone
            with pytest.raises(Unreachable, match="CERTIFICATE_VERIFY_FAILED"):
                await refused_at_last(client)
            await client.renew_credentials()
            with pytest.raises(BadCertificates, match=f"not {pair.fingerprint[:16]}.*copy the line again"):
                await client.health()
        async with pinned_server_at(pair, port):
            assert await client.health()


async def becomes(healthy: Callable[[], Awaitable[bool]]) -> None:
    """Returns once a server that is back is reached."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with suppress(Unreachable):
                assert await healthy()
                return
            await asyncio.sleep(0.01)


async def refused_at_last(client: AsyncGRPCComputeClient) -> None:
    """Raises what the next attempt to connect ends in; until then grpc answers with the last one's error."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                await client.health()
            except Unreachable as error:
                if "refused" not in str(error):
                    raise
            await asyncio.sleep(0.01)


async def test_a_session_cannot_be_the_first_call_to_a_pinned_worker(pair: CertifiedKey) -> None:
    async with AsyncGRPCComputeClient(f"127.0.0.1:{free_port()}", access=pinned(pair)) as client:
        with pytest.raises(Unreachable, match="not compared yet"):
            client.stream(SessionOpening("one", "echo", 8))


async def test_a_token_of_a_file_is_sent_as_it_is_now(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text(OTHER)
    access = Access.given(token_file=file)
    async with (
        AsyncGRPCComputeServer(session_host=EchoSessionHost(), tokens=Tokens(TOKEN)) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", access=access) as client,
    ):
        with pytest.raises(Unauthenticated):
            await client.health()
        replace(file, TOKEN.encode())
        assert await client.health()


class Given:
    """Settings, and a secret in them."""

    def __init__(self, files: TLSFiles | None = None) -> None:
        self.tls_ca, self.tls_cert, self.tls_key = (
            (None,) * 3 if files is None else (files.ca, files.certificate, files.key)
        )

    def get_secret_value(self) -> str:
        return TOKEN


def test_settings_say_how_workers_are_reached(tmp_path: Path, ca: CertifiedKey) -> None:
    files = save(tmp_path, ca, client_of(ca), "client")
    file = tmp_path / "token"
    file.write_text(OTHER)
    bare = access_from(Given(), None, None, is_insecure=False)
    assert (bare.tls, bare.metadata(), bare.is_insecure) == (None, None, False)
    assert access_from(Given(), Given(), None, is_insecure=False).metadata() == (("authorization", f"Bearer {TOKEN}"),)
    whole = access_from(Given(files), None, file, is_insecure=True)
    assert whole.tls == files
    assert whole.metadata() == (("authorization", f"Bearer {OTHER}"),)
    assert whole.is_insecure


@pytest.mark.parametrize("target", ["10.0.0.5:1", "worker:1", "[2001:db8::1]:1", "dns:///worker:1", "127.0.0.1.evil:1"])
def test_a_token_is_not_sent_in_clear_to_another_machine(target: str) -> None:
    with pytest.raises(BadToken, match="without encryption") as refused:
        AsyncGRPCComputeClient(target, access=Access(token=lambda: TOKEN))
    assert TOKEN not in str(refused.value)
    AsyncGRPCComputeClient(target, access=Access(token=lambda: TOKEN, is_insecure=True))
    AsyncGRPCComputeClient(target, access=Access(TLSFiles(Path("ca")), token=lambda: TOKEN))
    AsyncGRPCComputeClient(target)


@pytest.mark.parametrize("target", ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1", "unix:/run/worker"])
def test_on_this_machine_a_token_may_be_sent_in_clear(target: str) -> None:
    AsyncGRPCComputeClient(target, access=Access(token=lambda: TOKEN))


def test_what_is_wrong_with_files_is_said_at_the_start(tmp_path: Path) -> None:
    with pytest.raises(BadCertificates, match=r"no\.crt"):
        Access.given(tmp_path / "no.crt")
    with pytest.raises(BadToken, match="nothing"):
        Access.given(token_file=tmp_path / "nothing")
    with pytest.raises(BadToken, match="worker:1 would be sent without"):
        connection_to("127.0.0.1:1, worker:1", 5.0, Access(token=lambda: TOKEN))
    with pytest.raises(InvalidAddress):
        connection_to("worker:1#half", 5.0, Access())


def test_a_token_is_in_no_log_of_the_object() -> None:
    access = Access(token=lambda: TOKEN)
    assert TOKEN not in repr(access)
    assert TOKEN not in repr(access.pinned(PinnedAddress("worker:1", TOKEN, "0" * 64)))


async def test_each_address_of_a_list_has_its_own_pin_and_the_others_the_general_access(
    pair: CertifiedKey, tmp_path: Path
) -> None:
    ca = authority()
    files = save(tmp_path, ca, worker_of(ca), "worker")
    general = Access.given(files.ca, files.certificate, files.key, token=OTHER)
    line = PinnedAddress("worker:1", TOKEN, pair.fingerprint).line()
    addresses, connect = connection_to(f"{line}, 10.0.0.5:2", 5.0, general)
    assert addresses == "worker:1,10.0.0.5:2"

    pinned, other = connect("10.0.0.9:1", "worker:1"), connect("10.0.0.5:2", "10.0.0.5:2")

    assert pinned._access.metadata() == (("authorization", f"Bearer {TOKEN}"),)
    assert (pinned._access.fingerprint, pinned._access.tls) == (pair.fingerprint, None)
    assert other._access.metadata() == (("authorization", f"Bearer {OTHER}"),)
    assert (other._access.fingerprint, other._access.tls) == (None, files)
