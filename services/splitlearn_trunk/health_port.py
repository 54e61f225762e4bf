"""The second gRPC port: health alone and without TLS, from before the layers are loaded until the last session ends."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from splitlearn_comm import HealthServer, HealthState
from splitlearn_comm.addresses import join_address
from splitlearn_trunk.listening import address_of, bound

log = structlog.get_logger()


@asynccontextmanager
async def reported(health: HealthState, host: str, port: int | None) -> AsyncIterator[None]:
    """Reports `health` on a port of its own until the context ends; on none if `port` is None.

    Raises:
        PortUnavailable: with the flag and the reason.
    """
    if port is None:
        yield
        return
    with bound(host, port, "--health-port") as held:
        port = address_of(held)[1]
    async with HealthServer(health, host=host, port=port):
        log.info("health checks", address=join_address(host, port))
        yield
