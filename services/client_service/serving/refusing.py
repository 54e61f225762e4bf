"""A refusal in OpenAI's shape, sent before any application is asked."""

import asyncio
import math
from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Send

from client_service.api import error_replies
from client_service.errors import RequestError

# A peer may go on sending what was refused, as long as it does so: closing at once would reset the connection, refusal
# and all. After so many seconds of silence, or so many in all, it is closed.
_SILENCE_SECONDS = 1.0
_LINGER_SECONDS = 30.0


class Incoming:
    """`receive`, which remembers whether the body has ended: from then on it waits for the caller to hang up."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = self.ended or not message.get("more_body", False)
        return message


async def refuse(incoming: Incoming, send: Send, error: RequestError, linger: float = _LINGER_SECONDS) -> None:
    """Answers, throws away what still comes of the request, and closes the connection.

    Args:
        linger: seconds that the peer may go on sending.
    """
    retry_after = None if error.retry_after is None else {"Retry-After": str(math.ceil(error.retry_after))}
    reply = JSONResponse(error_replies.body(error), error.status, retry_after)
    headers = [*reply.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply.status_code, "headers": headers})
    # the whole answer goes out now; the connection is closed when the last, empty piece is sent
    await send({"type": "http.response.body", "body": bytes(reply.body), "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(linger):
            while not incoming.ended:
                # not wait_for, which may swallow the timeout around it (Python before 3.12)
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await incoming()
    await send({"type": "http.response.body"})


def closing(send: Send) -> Send:
    """`send`, with the connection closed after the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return sending
