"""Binds ports before anything is loaded, so that a busy port is reported at once and not minutes later."""

import errno
import ipaddress
import socket
from typing import Any, Final

from splitlearn_comm import InvalidAddress, PortUnavailable
from splitlearn_comm.addresses import bare_host, is_loopback, listening_trouble

# errors of binding that another port would not change
_OF_THE_HOST: Final = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT, errno.EINVAL)


def bound(host: str, port: int, flag: str) -> socket.socket:
    """A socket bound to the port, which does not listen yet. The caller owns it.

    Args:
        host: an address or a name. An IPv6 wildcard includes IPv4, as in gRPC.
        port: 0 picks a free one.
        flag: the command line flag of the port, for the error.

    Raises:
        PortUnavailable: with the flag at fault, which may be that of the host, and the reason.
    """
    try:
        host = bare_host(host)
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        return _held(socket.socket(family, kind, protocol), address)
    except InvalidAddress as error:
        raise PortUnavailable(f"--host: {error}") from error
    except UnicodeError as error:
        raise PortUnavailable(f"--host: {host!r} is not a host name ({error})") from error
    except OSError as error:
        reason = listening_trouble(host, port, error)
        if error.errno == errno.EADDRINUSE:
            reason += " (for a second trunk on this machine: --port 0 --metrics-port 0)"
        is_the_host = isinstance(error, socket.gaierror) or error.errno in _OF_THE_HOST
        raise PortUnavailable(f"{'--host' if is_the_host else flag}: {reason}") from error


def address_of(held: socket.socket) -> tuple[ipaddress.IPv4Address | ipaddress.IPv6Address, int]:
    """Address and port of a bound socket."""
    host, port = held.getsockname()[:2]
    return ipaddress.ip_address(host.partition("%")[0]), port


def is_public(host: str) -> bool:
    """Whether other machines may reach a port of this host: one of its addresses is not loopback, or it has none."""
    try:
        found = socket.getaddrinfo(bare_host(host), None, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except (InvalidAddress, OSError, UnicodeError):
        # it cannot be listened on; the attempt says why
        return True
    return not all(is_loopback(str(address[0])) for *_, address in found)


def _held(made: socket.socket, address: Any) -> socket.socket:
    try:
        # allows a port whose last connections are still closing
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if made.family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        made.bind(address)
        # Linux lets two sockets bind one port while both have this option and neither listens
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 0)
    except OSError:
        made.close()
        raise
    return made
