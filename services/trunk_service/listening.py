"""Ports are taken before anything is loaded: a busy one should not be news minutes later."""

import errno
import ipaddress
import socket
from typing import Any

from splitlearn_comm import PortUnavailable
from splitlearn_comm.addresses import listening_trouble


def bound(host: str, port: int, flag: str) -> socket.socket:
    """A socket that holds the port; it does not listen yet. The caller owns it.

    Args:
        host: without brackets. An IPv6 wildcard takes IPv4 too, as gRPC's does.
        port: 0 picks a free one.
        flag: of the command line, which the port came from.

    Raises:
        PortUnavailable: with the reason.
    """
    host = host.removeprefix("[").removesuffix("]")
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _held(socket.socket(family, kind, protocol), address)
    except UnicodeError as error:
        raise PortUnavailable(f"--host: {host!r} is no host name ({error})") from error
    except OSError as error:
        trouble = listening_trouble(host, port, error)
        if error.errno == errno.EADDRINUSE:
            trouble += " (a second trunk on this machine: --port 0 --metrics-port 0)"
        raise PortUnavailable(f"{flag}: {trouble}") from error


def address_of(held: socket.socket) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Where a bound socket is."""
    host, port = held.getsockname()[:2]
    return ipaddress.ip_address(host.partition("%")[0]), port


def _held(made: socket.socket, address: Any) -> socket.socket:
    try:
        # a port whose last connections are still closing is free
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
        # Linux lets two sockets bind one port while both say this and neither listens
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        made.close()
        raise
    return made
