"""Graceful shutdown: new requests are refused, and running ones get a timeout, and after it an error."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

import structlog
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitlearn_client.api.event_stream import error_event
from splitlearn_client.errors import ShuttingDown
from splitlearn_client.serving.refusing import Incoming, closing, refuse
from splitlearn_comm.event_loop import expire

log = structlog.get_logger()

# for sending the error to callers, who may not read
_LAST_ERROR_SECONDS = 1.0
_RETRY_AFTER = 5.0


class Drained(Protocol):
    def __call__(self, *, was_cut_off: bool) -> None: ...


class Draining:
    """ASGI middleware that tracks running requests. `finish` ends them.

    Args:
        drained: called for each request that ends during the shutdown.
    """

    def __init__(self, app: ASGIApp, drained: Drained) -> None:
        self._app = app
        self._drained = drained
        self._running: set[asyncio.Timeout] = set()
        self._begun = False
        self._silent = False
        self._changed = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif self._begun and scope["path"] == "/ready":
            reply = JSONResponse({"status": "not ready", "reason": "this service is shutting down"}, 503)
            await reply(scope, receive, closing(send))
        elif self._begun and scope["method"] == "POST":
            await refuse(scope, Incoming(receive), send, _shutting_down())
        else:
            await self._run(scope, receive, closing(send) if self._begun else send)

    async def finish(self, timeout: float) -> None:
        """Accepts nothing new, waits for running requests, and after `timeout` seconds ends each with an error."""
        self._begun = True
        await self._quiet(timeout)
        if self._running:
            log.warning("requests ended by the shutdown timeout", count=len(self._running))
            self._cut()
            await self._quiet(_LAST_ERROR_SECONDS + 1.0)

    def drop(self) -> None:
        """Ends all running requests at once, without an error."""
        self._silent = True
        self._cut()

    async def _run(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming, response = Incoming(receive), _Response(send)
        life = asyncio.timeout(None)
        with self._tracked(life):
            try:
                async with life:
                    await self._app(scope, incoming, response.send)
            except TimeoutError:
                if not life.expired():
                    raise
                if not self._silent:
                    with suppress(TimeoutError):
                        async with asyncio.timeout(_LAST_ERROR_SECONDS):
                            await response.send_error(scope, incoming)
            finally:
                # not probes, which are answered during the shutdown too
                if self._begun and scope["method"] == "POST":
                    self._drained(was_cut_off=life.expired())

    @contextmanager
    def _tracked(self, life: asyncio.Timeout) -> Iterator[None]:
        self._running.add(life)
        try:
            yield
        finally:
            self._running.discard(life)
            self._changed.set()

    def _cut(self) -> None:
        for life in self._running:
            expire(life)

    async def _quiet(self, seconds: float) -> None:
        """Returns when no request runs, or after `seconds`."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._running:
                    self._changed.clear()
                    await self._changed.wait()


class _Response:
    """A response, and how much of it was sent."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._begun = False
        self._whole = False
        self._is_stream = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._begun = True
            headers = dict(message.get("headers", ()))
            self._is_stream = headers.get(b"content-type", b"").startswith(b"text/event-stream")
        elif message["type"] == "http.response.body":
            self._whole = not message.get("more_body", False)
        await self._send(message)

    async def send_error(self, scope: Scope, incoming: Incoming) -> None:
        """Sends an error response if none was begun, or an error event if a stream is incomplete."""
        if not self._begun:
            await refuse(scope, incoming, self._send, _shutting_down(), _LAST_ERROR_SECONDS / 2)
        elif self._is_stream and not self._whole:
            last = error_event(_shutting_down(), scope)
            await self._send({"type": "http.response.body", "body": last.encode()})


def _shutting_down() -> ShuttingDown:
    return ShuttingDown("this service is shutting down; try again later, or another one", retry_after=_RETRY_AFTER)
