"""The sockets that the API listens on."""

import asyncio
import errno
import socket
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any

from splitlearn_comm import InvalidAddress, PortUnavailable
from splitlearn_comm.addresses import bare_host, is_loopback, join_address, listening_trouble

# the socket module's addresses: host and port, for IPv6 also flow and scope
Address = tuple[Any, ...]

# of the event loop, until the protocol of an accepted connection has its transport
_TURNS = 4


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of `host`, all with the same port; `::` includes IPv4. The caller closes them.

    Args:
        host: an address, for IPv6 with or without brackets, or a name of this machine.
        port: 0 picks a free one.

    Raises:
        PortUnavailable: says whether host, port or permission is wrong, and what to do.
    """
    try:
        host = bare_host(host)
    except InvalidAddress as error:
        raise PortUnavailable(f"--host: {error}") from error
    sockets: list[socket.socket] = []
    unusable: PortUnavailable | None = None
    with ExitStack() as undo:
        found = _resolved(host, port)
        for family, address in found:
            try:
                listening = _bound(family, _same_port(address, sockets), alone=len(found) == 1)
            except OSError as error:
                if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                    raise _complaint(host, address, error) from error
                # a name such as localhost may have an address of a disabled family
                unusable = _complaint(host, address, error)
                continue
            sockets.append(undo.enter_context(listening))
        if not sockets:
            raise unusable or PortUnavailable(f"the host {host!r} has no address; check --host")
        undo.pop_all()
    return sockets


def address_of(listening: socket.socket) -> str:
    """`host:port`, with brackets around an IPv6 address."""
    host, port = listening.getsockname()[:2]
    return join_address(host, port)


def is_local(sockets: Iterable[socket.socket]) -> bool:
    """Whether only this machine can connect."""
    return all(is_loopback(str(listening.getsockname()[0])) for listening in sockets)


async def stop_accepting(servers: Iterable[asyncio.Server]) -> None:
    """Accepts no more connections; those that were accepted reach their protocols. The servers can then be closed.

    Python's Server.close leaves a connection open, and tells nobody, that was accepted in the turn of the event loop
    before it (https://github.com/python/cpython/issues/109564).
    """
    loop = asyncio.get_running_loop()
    for server in servers:
        for listening in server.sockets:
            loop.remove_reader(listening)
    for _ in range(_TURNS):
        await asyncio.sleep(0)


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Address]]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except UnicodeError as error:
        raise PortUnavailable(f"--host: {host!r} is not a host name ({error})") from error
    except socket.gaierror as error:
        raise PortUnavailable(f"--host: {listening_trouble(host, port, error)}") from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: Address, *, alone: bool) -> socket.socket:
    # `::` includes IPv4, unless the name has IPv4 addresses itself, which would then be in use
    dual = alone and family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, dualstack_ipv6=dual)


def _same_port(address: Address, bound: list[socket.socket]) -> Address:
    return (address[0], bound[0].getsockname()[1], *address[2:]) if bound else address


def _complaint(host: str, address: Address, error: OSError) -> PortUnavailable:
    # a name may have several addresses, so the error names the one
    return PortUnavailable(f"--host {host}, --port: {listening_trouble(str(address[0]), int(address[1]), error)}")
