"""Server-sent events: https://html.spec.whatwg.org/multipage/server-sent-events.html"""

import asyncio
import json
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import Any, Final

from fastapi.responses import StreamingResponse
from starlette.requests import ClientDisconnect
from starlette.types import Message, Receive, Scope, Send

from splitlearn_client.api import error_replies
from splitlearn_client.api.disconnect import retrieve_error, unless_disconnected
from splitlearn_client.errors import RequestError
from splitlearn_client.request_info import read_info

STATUS_SECONDS: Final = 45.0
"""How long the status line waits for the first event, so that an error can still set the status. Longer than a request
waits for memory, and shorter than the minute after which common proxies give up."""
PING_SECONDS: Final = 15.0
"""Seconds without an event after which a comment is sent, as the specification advises."""
DONE: Final = "data: [DONE]\n\n"
_PING: Final = b": ping\n\n"


def event(body: dict[str, Any]) -> str:
    """One event with JSON as its data, and the name of its type if it has one."""
    name = f"event: {body['type']}\n" if "type" in body else ""
    return f"{name}data: {json.dumps(body, ensure_ascii=False, separators=(',', ':'))}\n\n"


def error_event(error: Exception, scope: Scope) -> str:
    """The last event of a stream that failed. Logs an unexpected error."""
    path = scope["path"]
    body = error_replies.body(error, path) if isinstance(error, RequestError) else error_replies.unforeseen(error, path)
    return event(read_info(scope).told_in_stream(body))


async def event_stream(receive: Receive, events: AsyncGenerator[str]) -> "EventStream":
    """The response with these events, once the first has come or STATUS_SECONDS are over.

    Raises:
        ClientDisconnect: the client disconnected first.
        Exception: what `events` raises before the first event.
    """
    first = asyncio.ensure_future(anext(events))
    first.add_done_callback(retrieve_error)
    response = None
    try:
        await unless_disconnected(receive, asyncio.wait((first,), timeout=STATUS_SECONDS))
        if first.done():
            first.result()
        response = EventStream(first, events)
        return response
    finally:
        if response is None:
            await _close(first, events)


class EventStream(StreamingResponse):
    """Events until the client disconnects, with a comment every PING_SECONDS without one. An error becomes an event,
    because the status line is sent. Owns the generator of events, and closes it."""

    def __init__(self, first: "asyncio.Future[str]", rest: AsyncGenerator[str]) -> None:
        super().__init__(rest, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        self._first = first
        self._rest = rest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.body_iterator = _body(self._first, self._rest, scope)
        try:
            with suppress(ClientDisconnect):
                await unless_disconnected(receive, self._respond(_Pinging(send)))
        finally:
            await _close(self._first, self._rest)

    async def _respond(self, pinging: "_Pinging") -> None:
        pings = asyncio.ensure_future(pinging.run())
        # what keeps a ping from being sent also ends the response
        pings.add_done_callback(retrieve_error)
        try:
            await self.stream_response(pinging.send)
        finally:
            pings.cancel()


class _Pinging:
    """Passes messages on, and sends a comment when there was none for a while."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._clock = asyncio.get_running_loop().time
        self._last = self._clock()
        self._is_whole = False

    async def send(self, message: Message) -> None:
        self._last = self._clock()
        self._is_whole = message["type"] == "http.response.body" and not message.get("more_body", False)
        await self._send(message)

    async def run(self) -> None:
        """Until cancelled, or the response is whole."""
        while not self._is_whole:
            await asyncio.sleep(self._last + PING_SECONDS - self._clock())
            if not self._is_whole and self._clock() - self._last >= PING_SECONDS:
                await self.send({"type": "http.response.body", "body": _PING, "more_body": True})


async def _body(first: "asyncio.Future[str]", rest: AsyncGenerator[str], scope: Scope) -> AsyncGenerator[str]:
    try:
        yield await first
        async for each in rest:
            yield each
    except Exception as error:  # noqa: BLE001 - it is logged, and told to the caller
        yield error_event(error, scope)


async def _close(first: "asyncio.Future[str]", events: AsyncGenerator[str]) -> None:
    """Closes the generator, which may be at work on its first event. A caller that is cancelled meanwhile, perhaps for
    the second time, waits all the same: a generator that runs cannot be closed."""
    first.cancel()
    cancelled = False
    while not first.done():
        try:
            await asyncio.wait((first,))
        except asyncio.CancelledError:
            cancelled = True
    await events.aclose()
    if cancelled:
        raise asyncio.CancelledError
