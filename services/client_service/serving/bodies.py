"""Bodies of requests: how long, how slow and how many at a time."""

import asyncio
from dataclasses import dataclass
from typing import Final

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from client_service.errors import RequestError, RequestTimeout, RequestTooLarge, TooBusy
from client_service.serving.body_room import PIECE, Room, Share
from client_service.serving.json_size import MOST_IDS, MOST_VALUES, has_too_many_values
from client_service.serving.refusing import Incoming, refuse

# Where there is no room: an upload that stands still for so long gives way, and others wait at most so long. Both are
# less where bodies must come in a few seconds.
_STILL_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 2.0
# how often the first in line looks
_LOOK_SECONDS: Final = 0.01
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

    A body is counted until its response begins: by then the application keeps nothing of it, however long the response
    lasts. Where there is no room, a body waits in line for it while its sender is not read, and the slowest upload
    gives way.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits
        self._room = Room(limits.together, min(_STILL_SECONDS, limits.seconds / 4))
        self._patience = min(_PATIENCE_SECONDS, limits.seconds / 2)
        self._line = asyncio.Lock()
        """Held by the first of those who wait for room."""
        self._lives: dict[Share, asyncio.Timeout] = {}
        """Of the bodies under way."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        incoming = Incoming(receive)
        share = self._room.enter(_now())
        try:
            try:
                body = await self._whole(scope, incoming, share)
            except RequestError as error:
                # without the frames that hold what came of the body
                refusal = error.with_traceback(None)
            else:
                if body is not None:
                    given = _given(body, receive)
                    # else this frame kept it until the response has ended
                    del body
                    await self._app(scope, given, self._giving_back(share, send))
                return
        finally:
            self._room.leave(share)
        # who is too slow is not worth much more time
        linger = {"linger": 0.5} if isinstance(refusal, RequestTimeout) else {}
        await refuse(incoming, send, refusal, **linger)

    def _giving_back(self, share: Share, send: Send) -> Send:
        """`send`, which gives back the room of a body as soon as its response begins."""

        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._room.leave(share)
            await send(message)

        return sending

    async def _whole(self, scope: Scope, receive: Receive, share: Share) -> bytes | None:
        """The body; None if its sender has gone."""
        # h11 has checked that it is a number
        self._check_length(int(Headers(scope=scope).get("content-length", "0")))
        try:
            async with asyncio.timeout(self._limits.seconds) as life:
                self._lives[share] = life
                body = await self._received(receive, share)
        except TimeoutError as error:
            if share.dropped:
                raise _gave_way() from error
            raise RequestTimeout(f"the body did not come within {self._limits.seconds:g} s") from error
        finally:
            share.uploading = False
            self._lives.pop(share, None)
        if body is not None:
            await _check_values(body)
        return body

    async def _received(self, receive: Receive, share: Share) -> bytes | None:
        parts: list[bytes] = []
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                share.add(len(parts[-1]), _now())
                self._check_length(share.came)
                await self._hold(share)
                if not message.get("more_body", False):
                    return b"".join(parts)
        finally:
            # an error may keep this frame for a while
            parts.clear()

    def _check_length(self, n_bytes: int) -> None:
        """Refuses a body of at least so many bytes if it is too long."""
        if n_bytes > self._limits.longest:
            raise RequestTooLarge(
                f"the body has {n_bytes} bytes or more, and at most {self._limits.longest} are taken; "
                "shorten it, or start the service with a greater --max-body"
            )

    async def _hold(self, share: Share) -> None:
        """Comes back when what came is counted.

        Raises:
            TooBusy: there is no room for it, and others who have it use it.
            RequestTimeout: it gave way itself.
        """
        if share.dropped:
            raise _gave_way()
        # nobody overtakes those who wait
        if not self._line.locked() and self._room.take(share):
            return
        share.waiting = True
        try:
            async with asyncio.timeout(self._patience), self._line:
                await self._first_in_line(share)
        except TimeoutError as error:
            raise _no_room() from error
        share.go_on(_now())

    async def _first_in_line(self, share: Share) -> None:
        while not self._room.take(share):
            slowest = self._room.make_room(share, _now())
            if slowest is share:
                raise _no_room()
            if slowest is None:
                await asyncio.sleep(_LOOK_SECONDS)
            elif not self._lives[slowest].expired():
                self._lives[slowest].reschedule(_now())


async def _check_values(body: bytes) -> None:
    too_many = has_too_many_values
    if too_many(body) if len(body) <= _SHORT else await asyncio.to_thread(too_many, body):
        raise RequestTooLarge(f"the body has more than {MOST_VALUES} values, or {MOST_IDS} token ids; send fewer")


def _now() -> float:
    return asyncio.get_running_loop().time()


def _no_room() -> TooBusy:
    return TooBusy("too many long requests at a time; try again later", retry_after=1.0)


def _gave_way() -> RequestTimeout:
    return RequestTimeout(
        "too many long requests at a time, and the body of this one came slowest; send it again, faster "
        f"({PIECE // 1024} KiB a second or more), or shorten it"
    )


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
