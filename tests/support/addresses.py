"""What addresses this machine has."""

import socket


def ipv6_works() -> bool:
    """Whether a server can listen on the loopback address of IPv6."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True
