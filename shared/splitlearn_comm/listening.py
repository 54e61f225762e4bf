"""Adding a port to a grpc server, with the reason where that fails."""

from __future__ import annotations

import asyncio
import socket

import grpc
import grpc.aio

from splitlearn_comm.addresses import join_address, listening_trouble
from splitlearn_comm.errors import PortUnavailable


async def add_port(
    server: grpc.aio.Server, host: str, port: int, credentials: grpc.ServerCredentials | None = None
) -> int:
    """Adds a port to a server that has not started, and returns its number. A port of 0 picks a free one.

    Args:
        credentials: for TLS; None for a port without it.

    Raises:
        PortUnavailable: with the reason.
    """
    address = join_address(host, port)
    try:
        if credentials is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, credentials))
    except RuntimeError as error:
        trouble = await asyncio.to_thread(_why_not, host, port)
        raise PortUnavailable(f"cannot listen on {address}: {trouble}") from error


def _why_not(host: str, port: int) -> str:
    """Why grpc cannot listen. It does not say, but the operating system does when this function binds a socket itself.

    Blocks, because it resolves names.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, kind, protocol, _, address in found:
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                probe.bind(address)
                probe.listen()
    except OSError as error:
        return listening_trouble(host, port, error)
    return "grpc could not, though the port is free by now; try again"
