"""The sockets that the API is served on."""

import errno
import os
import socket
from contextlib import ExitStack
from typing import Any

from splitlearn_comm import PortUnavailable
from splitlearn_comm.addresses import join_address

# host and port, and for IPv6 flow and scope: what the socket module takes and gives
Address = tuple[Any, ...]

_ADVICE = "choose another --port, 0 picks a free one"
_NO_IPV6 = "IPv6 is switched off on this machine; use --host 127.0.0.1, or 0.0.0.0 for all addresses"


def listen(host: str, port: int) -> list[socket.socket]:
    """Sockets on every address of `host`, all on one port; `::` takes IPv4 as well. The caller closes them.

    Args:
        host: an address, with or without the brackets of IPv6, or a name of this machine.
        port: 0 picks a free one.

    Raises:
        PortUnavailable: says whether the host, the port or the permission is at fault, and what to do.
    """
    host = host.removeprefix("[").removesuffix("]")
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
                # a name such as localhost may have an address of a family that is switched off here
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


def _resolved(host: str, port: int) -> list[tuple[socket.AddressFamily, Address]]:
    try:
        found = socket.getaddrinfo(host or None, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (socket.gaierror, UnicodeError) as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else "it is not a host name"
        raise PortUnavailable(
            f"the host {host!r} cannot be resolved ({reason}); check --host, or give an address such as 127.0.0.1"
        ) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in found))


def _bound(family: socket.AddressFamily, address: Address, *, alone: bool) -> socket.socket:
    # `::` with IPv4 as well, unless the name has IPv4 addresses of its own, which would then be taken
    dual = alone and family == socket.AF_INET6 and socket.has_dualstack_ipv6()
    return socket.create_server(address, family=family, dualstack_ipv6=dual)


def _same_port(address: Address, bound: list[socket.socket]) -> Address:
    return (address[0], bound[0].getsockname()[1], *address[2:]) if bound else address


def _complaint(host: str, address: Address, error: OSError) -> PortUnavailable:
    where = join_address(*address[:2])
    match error.errno:
        case errno.EADDRINUSE:
            reason = f"the port is taken; {_ADVICE}"
        case errno.EACCES | errno.EPERM:
            reason = f"this user may not use that port; {_ADVICE}"
        case errno.EAFNOSUPPORT:
            reason = _NO_IPV6
        case errno.EADDRNOTAVAIL if address[0] in ("::", "::1"):
            reason = _NO_IPV6
        case errno.EADDRNOTAVAIL:
            reason = f"{host} is not an address of this machine; give --host one of its own, or 0.0.0.0 for all"
        case errno.EINVAL if address[0].startswith("fe80:"):
            reason = "a link-local address needs its interface, as in fe80::1%eth0"
        case _:
            reason = f"{os.strerror(error.errno or 0)}; check --host and --port"
    return PortUnavailable(f"the API cannot be served on {where}: {reason}")
