"""HOST:PORT, written and parsed the same way everywhere: on the command line, in logs and in messages.

In HOST:PORT, an IPv6 address is in brackets (RFC 3986, section 3.2.2); a host on its own, as in `--host`, has none.
Nothing here uses the network.
"""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
from typing import Final

from splitlearn_comm.errors import InvalidAddress
from splitlearn_comm.peer_text import clipped

MOST_PORT: Final = 65535

# Names that a resolver accepts, including the underscores of container networks.
_NAME: Final = re.compile(r"[^\W_]([\w.-]*\w)?\.?|_[\w.-]*\w", re.ASCII)
_LONGEST_NAME: Final = 253
_LONGEST_SHOWN: Final = 100


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 host unless it already has them."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def bare_host(host: str) -> str:
    """The host of a server, without the brackets that an IPv6 address may have.

    Raises:
        InvalidAddress: it has one of the two.
    """
    if host.startswith("[") != host.endswith("]"):
        raise InvalidAddress(f"{_quoted(host)} has one bracket of two; write an IPv6 address as ::1 or [::1]")
    return host[1:-1] if host.startswith("[") else host


def split_address(text: str) -> tuple[str, int]:
    """The host, without brackets, and the port of `HOST:PORT`.

    Raises:
        InvalidAddress: no host, no port, a port that is not a number from 1 to 65535, or an IPv6 host without brackets.
    """
    host, port = _parts(text)
    if not port:
        raise InvalidAddress(f"{_quoted(text)} has no port; write HOST:PORT, for example {_example(host)}")
    if not host:
        raise InvalidAddress(f"{_quoted(text)} has no host; write HOST:PORT, for example 127.0.0.1:50051")
    check_host(host)
    # int() also accepts digits of other scripts, signs, spaces and underscores
    if not (port.isascii() and port.isdecimal()):
        raise InvalidAddress(
            f"the port of {_quoted(text)} is not a number; write HOST:PORT, for example {_example(host)}"
        )
    # The length check counts leading zeros too: int() of very many digits is slow, or raises.
    if len(port) > len(str(MOST_PORT)) or not 1 <= int(port) <= MOST_PORT:
        raise InvalidAddress(f"the port of {_quoted(text)} is not in the range 1 to {MOST_PORT}")
    return host, int(port)


def split_address_list(text: str) -> tuple[str, ...]:
    """The addresses of `HOST:PORT,HOST:PORT`, each once, in their order.

    Raises:
        InvalidAddress: one of them is invalid, or there is none.
    """
    addresses = tuple(dict.fromkeys(filter(None, (each.strip() for each in text.split(",")))))
    if not addresses:
        raise InvalidAddress("no address is given; write HOST:PORT, or several with commas between them")
    for each in addresses:
        split_address(each)
    return addresses


def is_literal(host: str) -> bool:
    """Whether `host` is an IP address and not a name. Brackets and a zone (`%eth0`) are not part of an address."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def is_loopback(address: str) -> bool:
    """Whether an IP address, with or without a zone, is reached from this machine alone; a name never is."""
    try:
        return ipaddress.ip_address(address.partition("%")[0]).is_loopback
    except ValueError:
        return False


def check_host(host: str) -> None:
    """Check that `host` is an IPv4 address, an IPv6 address without brackets, or a possible name.

    Raises:
        InvalidAddress: it is none of these.
    """
    if ":" in host:
        try:
            ipaddress.IPv6Address(host)
        except ValueError:
            raise InvalidAddress(f"{_quoted(host)} is no IPv6 address and no host name") from None
    elif re.fullmatch(r"[\d.]+", host, re.ASCII):
        try:
            ipaddress.IPv4Address(host)
        except ValueError:
            raise InvalidAddress(f"{_quoted(host)} is not an IPv4 address") from None
    elif len(host) > _LONGEST_NAME or not _NAME.fullmatch(host):
        raise InvalidAddress(f"{_quoted(host)} is not a host name")


def listening_trouble(host: str, port: int, error: OSError) -> str:
    """Why a server cannot listen on `host:port`, and what to do, as half a sentence.

    Args:
        error: from resolving the host (socket.gaierror) or from binding.
    """
    address = join_address(host, port)
    if isinstance(error, socket.gaierror):
        return f"the host {_quoted(host)} does not resolve on this machine; give an address of it, 0.0.0.0 or ::"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{address} is taken by another process; choose another port, or 0 for any free one"
        case errno.EADDRNOTAVAIL:
            # a machine without IPv6 also reports this for ::1
            unavailable = " or this machine has no IPv6" if ":" in host else ""
            return f"{host} is not an address of this machine{unavailable}; listen on one that is"
        case errno.EAFNOSUPPORT:
            return f"this machine offers no IPv6, so it cannot listen on {host}; give an IPv4 address"
        case errno.EINVAL if host.lower().startswith("fe80:"):
            return f"{host} is a link-local address and needs its interface, as in fe80::1%eth0"
        case errno.EACCES | errno.EPERM:
            return f"this process may not listen on {address}; ports below 1024 require privileges; choose another"
        case _:
            return f"cannot listen on {address}: {os.strerror(error.errno) if error.errno else error}"


def _parts(text: str) -> tuple[str, str]:
    """Host and port; the port is empty if there is none."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        if not bracket or (rest and not rest.startswith(":")) or ":" not in host:
            raise InvalidAddress(f"{_quoted(text)}: brackets go around an IPv6 address, for example [::1]:50051")
        return host, rest[1:]
    if text.count(":") > 1:
        raise InvalidAddress(f"{_quoted(text)}: an IPv6 address goes into brackets, for example [::1]:50051")
    host, _, port = text.partition(":")
    return host, port


def _example(host: str) -> str:
    return clipped(join_address(host or "127.0.0.1", 50051), _LONGEST_SHOWN)


def _quoted(text: str) -> str:
    return f"'{clipped(text, _LONGEST_SHOWN)}'"
