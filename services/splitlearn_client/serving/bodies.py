"""Limits on request bodies: their size, their time, and the bytes of all of them together."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitlearn_client.api.disconnect import unless_disconnected
from splitlearn_client.errors import RequestError, RequestTimeout, RequestTooLarge, TooBusy
from splitlearn_client.request_info import read_info
from splitlearn_client.serving.body_budget import CHUNK, BodyBudget, BodyShare
from splitlearn_client.serving.body_turns import SHORT, BodyTurns, cost_of
from splitlearn_client.serving.json_size import MostIds, excess
from splitlearn_client.serving.refusing import Incoming, refuse
from splitlearn_comm.event_loop import expire

# When the budget is used up: how long an upload may stall before it is dropped for others, and how long others wait.
# Both are shorter if --body-timeout is a few seconds.
_STALL_SECONDS: Final = 1.0
_PATIENCE_SECONDS: Final = 2.0
# how often the first in the queue tries again
_LOOK_SECONDS: Final = 0.01


@dataclass(frozen=True)
class BodyLimits:
    """Bytes of one body and of all bodies together; seconds in which a body must arrive; the ids that it may have."""

    max_bytes: int
    max_bytes_together: int
    seconds: float
    most_ids: Callable[[], MostIds] = lambda: MostIds.of(None)


class Bodies:
    """ASGI middleware: calls the application only with complete and checked bodies.

    A body's bytes are counted until the application calls `RequestInfo.release_body`, from when on it keeps nothing of
    the body, or has answered. When the budget is used up, a body waits in a queue while its sender is not read, and the
    slowest upload is dropped. The application reads the body before it waits for anything, and long ones in turns.
    """

    def __init__(self, app: ASGIApp, limits: BodyLimits) -> None:
        self._app = app
        self._limits = limits
        self._budget = BodyBudget(limits.max_bytes_together, min(_STALL_SECONDS, limits.seconds / 4))
        self._patience = min(_PATIENCE_SECONDS, limits.seconds / 2)
        self._queue = asyncio.Lock()
        """Held by the first body in the queue."""
        self._turns = BodyTurns()
        self._uploads: dict[BodyShare, asyncio.Timeout] = {}
        """The timeouts of incomplete bodies."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        incoming = Incoming(receive)
        share = self._budget.enter(_now())
        try:
            try:
                body = await self._complete(scope, incoming, share)
            except RequestError as error:
                # without the stack frames, which hold the received bytes
                refusal = error.with_traceback(None)
            else:
                if body is not None:
                    given = _given(body, receive)
                    # else this frame kept it until the response has ended
                    del body
                    read_info(scope).release_body = partial(self._budget.leave, share)
                    await self._app(scope, given, send)
                return
        finally:
            self._budget.leave(share)
        # a caller that was too slow gets little more time
        linger = {"linger": 0.5} if isinstance(refusal, RequestTimeout) else {}
        await refuse(scope, incoming, send, refusal, **linger)

    async def _complete(self, scope: Scope, receive: Receive, share: BodyShare) -> bytes | None:
        """The complete body; None if the caller has disconnected."""
        # h11 has checked that it is a number
        self._check_length(int(Headers(scope=scope).get("content-length", "0")))
        try:
            async with asyncio.timeout(self._limits.seconds) as timeout:
                self._uploads[share] = timeout
                body = await self._received(receive, share)
        except TimeoutError as error:
            if share.dropped:
                raise _dropped() from error
            raise RequestTimeout(f"the body did not arrive within {self._limits.seconds:g} s") from error
        finally:
            share.uploading = False
            self._uploads.pop(share, None)
        if body is None or not await self._has_turn(receive, cost_of(body)):
            return None
        if (too_many := excess(body, self._limits.most_ids())) is not None:
            raise RequestTooLarge(f"the body has more than {too_many}; send fewer, or in several requests")
        return body

    async def _has_turn(self, receive: Receive, cost: int) -> bool:
        """Whether the caller was still there when it was this body's turn, which lasts as long as this step."""
        if cost <= SHORT:
            return True
        turn = self._turns.enter(cost)
        try:
            await unless_disconnected(receive, turn)
        except ClientDisconnect:
            self._turns.leave(turn)
            return False
        except asyncio.CancelledError:
            self._turns.leave(turn)
            raise
        self._turns.begin()
        return True

    async def _received(self, receive: Receive, share: BodyShare) -> bytes | None:
        parts: list[bytes] = []
        try:
            while True:
                message = await receive()
                if message["type"] == "http.disconnect":
                    return None
                parts.append(message.get("body", b""))
                share.add(len(parts[-1]), _now())
                self._check_length(share.received)
                await self._hold(share)
                if not message.get("more_body", False):
                    return b"".join(parts)
        finally:
            # an error may keep this stack frame for a while
            parts.clear()

    def _check_length(self, n_bytes: int) -> None:
        """Raises RequestTooLarge for a body of `n_bytes` or more, if that is too much."""
        if n_bytes > self._limits.max_bytes:
            raise RequestTooLarge(
                f"the body has {n_bytes} bytes or more, but at most {self._limits.max_bytes} are allowed; "
                "shorten it, or start the service with a greater --max-body"
            )

    async def _hold(self, share: BodyShare) -> None:
        """Returns once all received bytes are counted.

        Raises:
            TooBusy: the budget is used up, and the other uploads make progress.
            RequestTimeout: this upload was dropped for another one.
        """
        if share.dropped:
            raise _dropped()
        # behind the queue, if there is one
        if not self._queue.locked() and self._budget.take(share):
            return
        share.waiting = True
        try:
            async with asyncio.timeout(self._patience), self._queue:
                await self._wait_for_budget(share)
        except TimeoutError as error:
            raise _too_busy() from error
        share.resume(_now())

    async def _wait_for_budget(self, share: BodyShare) -> None:
        while not self._budget.take(share):
            slowest = self._budget.drop_slowest(share, _now())
            if slowest is share:
                raise _too_busy()
            if slowest is None:
                await asyncio.sleep(_LOOK_SECONDS)
            else:
                expire(self._uploads[slowest])


def _now() -> float:
    return asyncio.get_running_loop().time()


def _too_busy() -> TooBusy:
    return TooBusy("too many long requests at the same time; try again later", retry_after=1.0)


def _dropped() -> RequestTimeout:
    return RequestTimeout(
        "too many long requests at the same time, and this body was the slowest; send it again, faster "
        f"({CHUNK // 1024} KiB a second or more), or shorten it"
    )


def _given(body: bytes, receive: Receive) -> Receive:
    """`receive` that returns the body first, and then waits for the disconnect."""
    sent = False

    async def receiving() -> Message:
        nonlocal sent, body
        if sent:
            return await receive()
        sent, body, whole = True, b"", body
        return {"type": "http.request", "body": whole, "more_body": False}

    return receiving
