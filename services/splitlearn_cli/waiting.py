"""Waits for services that are starting, with a timeout and a message."""

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

import httpx

from splitlearn_cli.terminal import note
from splitlearn_cli.urls import connecting

if TYPE_CHECKING:
    from splitlearn_comm import AsyncGRPCComputeClient, ServiceInfo

PATIENCE_SECONDS = 60.0
"""How long commands wait for a service by default. A message shows the address at once."""

_POLL_SECONDS = 0.2
_PROBE_SECONDS = 5.0


@dataclass(frozen=True)
class NotReady:
    """Why a client service cannot serve requests, and whether that may change by itself."""

    reason: str
    may_recover: bool = True


def not_ready_because(session: httpx.Client, url: str) -> NotReady | None:
    """Why the service at `url` is not ready; None if it is.

    Other servers than ours have no /ready, and count as ready if they answer.

    Raises:
        httpx.UnsupportedProtocol, httpx.InvalidURL: `url` is invalid.
    """
    try:
        response = session.get(f"{url}/ready", timeout=_PROBE_SECONDS)
    except (httpx.ConnectError, httpx.TimeoutException) as error:
        return NotReady(str(error) or type(error).__name__)
    except (httpx.ReadError, httpx.RemoteProtocolError):
        # no HTTP server: the next request reports that
        return None
    if response.status_code != httpx.codes.SERVICE_UNAVAILABLE:
        return None
    try:
        body = response.json()
        return NotReady(str(body["reason"]), may_recover=body.get("passes") is not False)
    except (ValueError, KeyError, TypeError, AttributeError):
        return NotReady(f"/ready answers {response.status_code}")


def wait_for_service(url: str, seconds: float) -> None:
    """As `wait_for_client`, with an HTTP session of its own."""
    with httpx.Client(**connecting(url)) as session:
        wait_for_client(session, url, seconds)


def wait_for_client(session: httpx.Client, url: str, seconds: float) -> None:
    """Returns once the client service at `url` is ready, or will not be by itself, or after `seconds`.

    Raises nothing: the next request reports the error.
    """
    deadline = time.monotonic() + seconds
    has_noted = False
    while time.monotonic() < deadline and (not_ready := not_ready_because(session, url)) is not None:
        if not not_ready.may_recover:
            return
        if not has_noted:
            note(f"{url} is not ready ({not_ready.reason}); waiting up to {seconds:g} s")
            has_noted = True
        time.sleep(_POLL_SECONDS)


async def wait_for_trunk(trunk: "AsyncGRPCComputeClient", seconds: float) -> "ServiceInfo":
    """The trunk's service info, as soon as it answers.

    Raises:
        Unreachable: it did not answer within `seconds`.
        CommError: it answered with an error.
    """
    from splitlearn_comm import Unreachable

    deadline = time.monotonic() + seconds
    has_noted = False
    while True:
        try:
            return await trunk.service_info()
        except Unreachable:
            if time.monotonic() >= deadline:
                raise
        if not has_noted:
            note(f"no trunk answers at {trunk.target} yet; waiting up to {seconds:g} s")
            has_noted = True
        await asyncio.sleep(_POLL_SECONDS)
