"""What a server knows the sender of a call by."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch

from splitlearn_comm import Access, AsyncGRPCComputeClient, AsyncGRPCComputeServer, Frame, SessionOpening
from splitlearn_comm.identity import identity_of
from splitlearn_comm.testing import EchoSessionHost
from splitlearn_comm.tls import ServerCertificates
from support.tls import authority, client_of, save, worker_of

ROWS_TD = torch.ones(2, 4)


@dataclass
class Call:
    """What gRPC says of a caller."""

    address: str = "ipv4:10.0.0.7:40000"
    names: Iterable[bytes] | None = None

    def peer_identities(self) -> Iterable[bytes] | None:
        return self.names

    def peer(self) -> str:
        return self.address


@pytest.mark.parametrize(
    ("token", "call", "expected"),
    [
        ("web", Call(names=[b"somebody"]), "token web"),
        ("", Call(), "address ipv4:10.0.0.7"),
        ("", Call("ipv6:%5B2001:db8::1%5D:40000"), "address ipv6:%5B2001:db8::1%5D"),
        ("", Call("unix:/run/worker.sock"), "address unix:/run/worker.sock"),
    ],
)
def test_the_name_of_a_token_comes_before_a_certificate_and_that_before_an_address(
    token: str, call: Call, expected: str
) -> None:
    assert identity_of(token, call) == expected


def test_a_certificate_is_told_by_all_of_its_names() -> None:
    one = identity_of("", Call(names=[b"web", b"lab"]))
    assert one == identity_of("", Call("ipv4:10.0.0.8:40000", [b"web", b"lab"]))
    assert one.startswith("certificate ")
    others = [[b"web"], [b"web, lab"], [b"web', b'lab"], [b"web\xff", b"lab"], [b"web\xfe", b"lab"]]
    assert len({one, *(identity_of("", Call(names=names)) for names in others)}) == 6


def test_what_a_caller_is_known_by_is_short_however_many_names_its_certificate_has() -> None:
    assert len(identity_of("", Call(names=[b"name" * 60] * 1000))) < 100


def test_calls_from_two_ports_of_one_machine_are_of_one_client() -> None:
    assert identity_of("", Call()) == identity_of("", Call("ipv4:10.0.0.7:50000"))
    assert identity_of("", Call()) != identity_of("", Call("ipv4:10.0.0.8:40000"))


def test_an_owner_keeps_the_ids_that_a_client_makes_up_inside_what_it_is_known_by() -> None:
    opening = SessionOpening("one", "echo", 8, tenant="alice", passed_on_for="p", identity="token web")
    assert opening.owner == ("token web", "p", "alice")
    ids = {
        replace(opening, identity=identity, passed_on_for=passed).client_id
        for identity, passed in (("token web", "p"), ("token lab", "p"), ("token web", ""), ("token web p", ""))
    }
    assert len(ids) == 4


async def test_the_server_says_who_opens_a_session_whatever_the_client_says() -> None:
    host = EchoSessionHost()
    lie = SessionOpening("one", "echo", 8, tenant="alice", identity="token somebody-else")
    async with (
        AsyncGRPCComputeServer(session_host=host) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as client,
        client.stream(lie) as stream,
    ):
        await stream.step(Frame(0, ROWS_TD))
    assert host.sessions[0].opening.owner == ("address ipv4:127.0.0.1", "", "alice")


async def test_a_client_with_a_certificate_is_known_by_the_names_in_it(tmp_path: Path) -> None:
    ca, host = authority(), EchoSessionHost()
    worker, client_files = save(tmp_path, ca, worker_of(ca), "worker"), save(tmp_path, ca, client_of(ca), "client")
    credentials = ServerCertificates(worker).credentials()
    async with (
        AsyncGRPCComputeServer(session_host=host, credentials=credentials) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", access=Access(client_files)) as client,
        client.stream(SessionOpening("one", "echo", 8)) as stream,
    ):
        await stream.step(Frame(0, ROWS_TD))
    assert host.sessions[0].opening.identity == identity_of("", Call(names=[b"web"]))
