"""What a server knows the sender of a call by, whatever the call says of itself.

A token's name, where the server asks for tokens; else a digest of the names in the client's certificate, where it
asks for certificates; else the address that the call comes from, without the port.
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import sha256
from typing import Final, Protocol

_WITH_PORT: Final = ("ipv4:", "ipv6:")


class Caller(Protocol):
    """What gRPC's context of a call says of the other end."""

    def peer_identities(self) -> Iterable[bytes] | None:
        """The names in its certificate; None if the connection has none that was checked."""
        ...

    def peer(self) -> str:
        """Its address, as gRPC writes it."""
        ...


def identity_of(token_name: str, caller: Caller) -> str:
    """What tells this sender apart from all others of the server.

    Args:
        token_name: of the token that came with the call; empty if the server asks for none.
        caller: gRPC's context of the call.
    """
    if token_name:
        return f"token {token_name}"
    names = list(caller.peer_identities() or ())
    if names:
        # sessions keep it, and a certificate may have thousands of names, with anything in them
        return f"certificate {sha256(repr(names).encode()).hexdigest()}"
    address = caller.peer()
    return f"address {address.rpartition(':')[0] if address.startswith(_WITH_PORT) else address}"
