"""How the services connect to replicas: encrypted or in clear, with or without a token, with the limits of sessions."""

from __future__ import annotations

from collections.abc import Mapping

from splitlearn_comm.access import Access
from splitlearn_comm.addresses import split_address
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.options import SESSION_MESSAGE_BYTES
from splitlearn_comm.pinned_address import PinnedAddress, split_pins
from splitlearn_comm.replicas.replica_set import Connect


def connection_to(trunk: str, timeout: float, access: Access) -> tuple[str, Connect]:
    """The addresses in what was given as a trunk, without their secrets, and what makes clients of them.

    Args:
        trunk: addresses with commas between them, each with or without #TOKEN.FINGERPRINT behind it.
        timeout: see `connector`.
        access: to those without.

    Raises:
        InvalidAddress: one of them is none.
        BadToken: the token would be sent in clear to another machine.
    """
    addresses, pins = split_pins(trunk)
    # said at the start, before anything is resolved
    for address in addresses.split(","):
        if address.strip() not in pins:
            access.check(address.strip())
    return addresses, connector(timeout, access, pins)


def connector(timeout: float, access: Access | None = None, pins: Mapping[str, PinnedAddress] | None = None) -> Connect:
    """Makes clients of replicas.

    Args:
        timeout: seconds without a message from a replica after which it counts as frozen.
        access: to all replicas but those with a pin; None connects in clear.
        pins: token and fingerprint of given addresses; see `split_pins`.

    Raises:
        BadToken: a token would be sent in clear to another machine.
    """
    general, pinned = access or Access(), pins or {}

    def connect(address: str, given: str) -> AsyncGRPCComputeClient:
        pin = pinned.get(given)
        # a target of grpc's own resolvers is not resolved here
        host = None if address == given else split_address(given)[0]
        return AsyncGRPCComputeClient(
            address,
            timeout=timeout,
            most_received=SESSION_MESSAGE_BYTES,
            access=general if pin is None else general.pinned(pin),
            # the certificate names the host that was given; a pinned one has a name of its own
            server_name=host if general.is_encrypted and pin is None else None,
        )

    return connect
