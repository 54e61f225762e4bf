"""Wait for services that are still starting, up to a time, and say so."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from splitlearn_cli.terminal import note

if TYPE_CHECKING:
    from splitlearn_comm import AsyncGRPCComputeClient, ServiceInfo

PATIENCE_SECONDS = 60.0
"""How long commands wait for a service by default. Who gave a wrong address reads at once what is waited for."""

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class NotReady:
    """Why a client service cannot answer requests yet, and whether that may pass by itself."""

    reason: str
    may_recover: bool = True


def not_ready_because(session: httpx.Client, url: str) -> NotReady | None:
    """What is in the way of the service at `url`; None once it can answer.

    Servers that are not ours have no /ready, and are ready when they answer at all.

    Raises:
        httpx.UnsupportedProtocol, httpx.InvalidURL: `url` is no address.
    """
    try:
        response = session.get(f"{url}/ready", timeout=_PROBE_SECONDS)
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        return NotReady(str(error) or type(error).__name__)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        # whoever listens there does not speak HTTP: the request that follows says so
        return None
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return None
    try:
        told = response.json()
        return NotReady(str(told["reason"]), may_recover=told.get("passes") is not False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return NotReady(f"/ready answers {response.status_code}")


def wait_for_client(session: httpx.Client, url: str, seconds: float) -> None:
    """Returns once the client service at `url` can answer, and after `seconds` in any case.

    The request that follows says what is wrong, so this raises nothing.
    """
    deadline = time.monotonic() + seconds
    is_told = False
    while time.monotonic() < deadline and (not_ready := not_ready_because(session, url)) is not None:
        if not is_told:
            note(f"{url} is not ready ({not_ready.reason}); waiting up to {seconds:g} s")
            is_told = True
        time.sleep(_POLL_SECONDS)


async def wait_for_trunk(trunk: "AsyncGRPCComputeClient", seconds: float) -> "ServiceInfo":
    """What the trunk says of itself, as soon as it answers.

    Raises:
        Unreachable: it has not for `seconds`.
        CommError: it answered with an error.
    """
    from splitlearn_comm import Unreachable

    deadline = time.monotonic() + seconds
    is_told = False
    while True:
        try:
            return await trunk.service_info()
        except Unreachable:
            if time.monotonic() >= deadline:
                raise
        if not is_told:
            note(f"no trunk answers at {trunk.target} yet; waiting up to {seconds:g} s")
            is_told = True
        await asyncio.sleep(_POLL_SECONDS)
