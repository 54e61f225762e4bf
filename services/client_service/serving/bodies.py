"""Bodies of requests: how long, how slow and how many at a time."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client_service.errors import RequestError, RequestTimeout, RequestTooLarge, TooBusy
from client_service.serving.json_size import MOST_IDS, MOST_VALUES, has_too_many_values
from client_service.serving.refusing import Incoming, refuse

# Of each body so many bytes are not counted: those who fill all room with long bodies must not shut out everybody.
_FREE = 2**16
# counting the values of so many bytes takes no time worth a thread
_SHORT = 2**18


@dataclass(frozen=True)
class BodyLimits:
    """Bytes of one body and of all bodies under way; seconds until one is there."""

    longest: int
    together: int
    seconds: float


class Bodies:
    """ASGI middleware: the application gets a body whole, checked and counted, or is not asked at all.

    What a request brought is counted until it is answered, because its text is kept as long.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        incoming = Incoming(receive)
        with self._room() as room:
            try:
                body = await self._whole(scope, incoming, room)
            except RequestError as error:
                # without the frames that hold what came of the body
                refusal = error.with_traceback(None)
            else:
                if body is not None:
                    await self._app(scope, _given(body, receive), send)
                return
        # who is too slow is not worth much more time
        linger = {"linger": 0.5} if isinstance(refusal, RequestTimeout) else {}
        await refuse(incoming, send, refusal, **linger)

    async def _whole(self, scope: Scope, receive: Receive, room: "_Room") -> bytes | None:
        """The body; None if its sender has gone."""
        # h11 has checked that it is a number
        self.check(int(Headers(scope=scope).get("content-length", "0")))
        parts: list[bytes] = []
        try:
            async with asyncio.timeout(self._limits.seconds):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return None
                    parts.append(message.get("body", b""))
                    room.add(len(parts[-1]))
                    if not message.get("more_body", False):
                        break
        except TimeoutError as error:
            raise RequestTimeout(f"the body did not come within {self._limits.seconds:g} s") from error
        body = b"".join(parts)
        too_many = has_too_many_values
        if too_many(body) if len(body) <= _SHORT else await asyncio.to_thread(too_many, body):
            raise RequestTooLarge(f"the body has more than {MOST_VALUES} values, or {MOST_IDS} token ids; send fewer")
        return body

    @contextmanager
    def _room(self) -> Iterator["_Room"]:
        room = _Room(self)
        try:
            yield room
        finally:
            self._held -= room.held

    def check(self, n_bytes: int) -> None:
        """Refuses a body of at least so many bytes if it is too long."""
        if n_bytes > self._limits.longest:
            raise RequestTooLarge(
                f"the body has {n_bytes} bytes or more, and at most {self._limits.longest} are taken; "
                "shorten it, or start the service with a greater --max-body"
            )

    def hold(self, more: int) -> None:
        """Counts bytes that have come."""
        if self._held + more > self._limits.together:
            raise TooBusy("too many long requests at a time; try again later", retry_after=1.0)
        self._held += more


class _Room:
    """What one request has of the bytes that all may have."""

    def __init__(self, bodies: Bodies) -> None:
        self._bodies = bodies
        self._came = 0
        self.held = 0

    def add(self, n_bytes: int) -> None:
        self._came += n_bytes
        self._bodies.check(self._came)
        if (more := self._came - _FREE - self.held) > 0:
            self._bodies.hold(more)
            self.held += more


def _given(body: bytes, receive: Receive) -> Receive:
    """`receive` that gives the body first, and then tells of the end of the connection."""
    told = False

    async def receiving() -> Message:
        nonlocal told, body
        if told:
            return await receive()
        told, body, whole = True, b"", body
        return {"type": "http.request", "body": whole, "more_body": False}

    return receiving
