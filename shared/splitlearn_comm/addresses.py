"""HOST:PORT, written in one way everywhere: in logs and in messages.

Hosts that are IPv6 addresses stand in brackets there (RFC 3986, section 3.2.2), and without them where a host stands
alone, as in `--host`. Nothing here asks the network.
"""

from __future__ import annotations

import errno
import os
import socket


def join_address(host: str, port: int) -> str:
    """`host:port`, with brackets around an IPv6 host; one that has them keeps them."""
    return f"[{host}]:{port}" if ":" in host and not host.startswith("[") else f"{host}:{port}"


def listening_trouble(host: str, port: int, error: OSError) -> str:
    """Why `host:port` cannot be listened on, and what to do, as half a sentence.

    Args:
        error: from resolving the host (socket.gaierror) or from binding.
    """
    address = join_address(host, port)
    if isinstance(error, socket.gaierror):
        return f"the host {host!r} does not resolve on this machine; give an address of it, 0.0.0.0 or ::"
    match error.errno:
        case errno.EADDRINUSE:
            return f"{address} is taken by another process; choose another port, or 0 for any free one"
        case errno.EADDRNOTAVAIL:
            # also what a machine without IPv6 says of ::1
            unavailable = " or this machine has no IPv6" if ":" in host else ""
            return f"{host} is not an address of this machine{unavailable}; listen on one that is"
        case errno.EAFNOSUPPORT:
            return f"this machine offers no IPv6, so {host} cannot be listened on; give an IPv4 address"
        case errno.EACCES | errno.EPERM:
            return f"this process may not listen on {address}; ports below 1024 take privileges, choose another"
        case _:
            return f"{address} cannot be listened on: {os.strerror(error.errno) if error.errno else error}"
