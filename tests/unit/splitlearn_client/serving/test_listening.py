import asyncio
import errno
import gc
import socket
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from types import SimpleNamespace
from typing import Any

import pytest

from splitlearn_client.serving import listening
from splitlearn_client.serving.listening import address_of, is_local, listen, stop_accepting
from splitlearn_comm import PortUnavailable


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def opened(stack: ExitStack, host: str, port: int = 0) -> list[str]:
    return [address_of(stack.enter_context(each)) for each in listen(host, port)]


def reached(address: str, port: int) -> bool:
    with socket.create_connection((address, port), 5):
        return True


def test_an_ipv6_address_stands_in_brackets(stack: ExitStack) -> None:
    (address,) = opened(stack, "::1")
    assert address.startswith("[::1]:")
    assert reached("::1", int(address.rpartition(":")[2]))


def test_brackets_around_the_host_are_taken(stack: ExitStack) -> None:
    assert opened(stack, "[::1]")[0].startswith("[::1]:")


@pytest.mark.parametrize("host", ["[::1", "::1]"])
def test_half_a_bracket_is_the_hosts_fault(host: str) -> None:
    with pytest.raises(PortUnavailable, match=r"^--host: .* has one bracket of two"):
        listen(host, 0)


def test_all_addresses_of_ipv6_take_ipv4_as_well(stack: ExitStack) -> None:
    (address,) = opened(stack, "::")
    port = int(address.rpartition(":")[2])
    assert address == f"[::]:{port}"
    assert reached("::1", port)
    assert reached("127.0.0.1", port)


def test_a_name_is_served_on_all_its_addresses_and_one_port(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", 0, 0, 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_rest: both)
    four, six = opened(stack, "desk")
    assert four.rpartition(":")[2] == six.rpartition(":")[2]
    assert (four.rpartition(":")[0], six.rpartition(":")[0]) == ("127.0.0.1", "[::1]")


def test_if_one_address_is_not_available_all_sockets_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, 0)) for address in ("127.0.0.1", "127.0.0.2")]
    made, create_server = list[socket.socket](), socket.create_server

    def create_one(*args: Any, **options: Any) -> socket.socket:
        if made:
            raise OSError(errno.EACCES, "not allowed")
        made.append(create_server(*args, **options))
        return made[0]

    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_rest: both)
    monkeypatch.setattr(socket, "create_server", create_one)
    with pytest.raises(PortUnavailable):
        listen("desk", 0)
    assert made[0].fileno() == -1


def test_a_family_that_is_switched_off_is_left_out_of_a_name(stack: ExitStack, monkeypatch: pytest.MonkeyPatch) -> None:
    both = [
        (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("2001:db8::1", 0, 0, 0)),
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", 0)),
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_rest: both)
    (four,) = opened(stack, "desk")
    assert four.startswith("127.0.0.1:")


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "::", "0.0.0.0"])
def test_a_port_that_is_taken_is_to_blame_and_not_the_host(stack: ExitStack, host: str) -> None:
    (address,) = opened(stack, host)
    with pytest.raises(PortUnavailable, match="taken by another process; choose another port") as refused:
        listen(host, int(address.rpartition(":")[2]))
    assert f"{address} is taken" in str(refused.value)


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1"])
def test_an_address_of_another_machine_is_named(host: str) -> None:
    with pytest.raises(PortUnavailable, match=f"{host} is not an address of this machine"):
        listen(host, 0)


@pytest.mark.parametrize("host", ["no-such-host.invalid", "a..b", "x" * 80])
def test_a_name_that_does_not_resolve_is_named(host: str) -> None:
    with pytest.raises(PortUnavailable, match=r"does not resolve|is not a host name"):
        listen(host, 0)


@pytest.mark.parametrize(
    ("host", "number", "blamed"),
    [
        ("127.0.0.1", errno.EACCES, "this process may not listen on"),
        ("::1", errno.EADDRNOTAVAIL, "this machine has no IPv6"),
        ("::", errno.EAFNOSUPPORT, "this machine offers no IPv6"),
        ("127.0.0.1", errno.EMFILE, "Too many open files"),
    ],
)
def test_what_this_machine_may_not_have_is_said(
    monkeypatch: pytest.MonkeyPatch, host: str, number: int, blamed: str
) -> None:
    def refuse(*_args: object, **_rest: object) -> socket.socket:
        raise OSError(number, "refused")

    monkeypatch.setattr(listening.socket, "create_server", refuse)
    with pytest.raises(PortUnavailable, match=blamed):
        listen(host, 80)


def test_a_link_local_address_needs_its_interface() -> None:
    with pytest.raises(PortUnavailable, match="needs its interface"):
        listen("fe80::1", 0)


@pytest.mark.parametrize(
    ("addresses", "expected"),
    [
        (["127.0.0.1"], True),
        (["::1", "127.0.1.1"], True),
        (["0.0.0.0"], False),
        (["::"], False),
        (["127.0.0.1", "10.0.0.7"], False),
        (["fe80::1%eth0"], False),
    ],
)
def test_whether_others_can_connect_is_known(addresses: list[str], expected: bool) -> None:
    sockets: list[Any] = [SimpleNamespace(getsockname=lambda each=each: (each, 8000)) for each in addresses]
    assert is_local(sockets) is expected


class _Ended(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport.close()


@pytest.mark.parametrize("turns", range(6))
async def test_a_server_that_accepts_no_more_leaves_no_connection_open_when_it_is_closed(turns: int) -> None:
    loop = asyncio.get_running_loop()
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        server = await loop.create_server(_Ended, "127.0.0.1", 0)
        with socket.create_connection(server.sockets[0].getsockname()) as peer:
            for _ in range(turns):
                await asyncio.sleep(0)
            await stop_accepting([server])
            server.close()
            await asyncio.sleep(0)
            gc.collect()
            with suppress(ConnectionResetError):
                assert await asyncio.to_thread(peer.recv, 1) == b""
    assert not warned
