"""Error responses that are sent without calling the application."""

import asyncio
from contextlib import suppress

from starlette.responses import JSONResponse
from starlette.types import Message, Receive, Scope, Send

from splitlearn_client.api import error_replies
from splitlearn_client.errors import RequestError

# Closing a connection while the peer sends would reset it, and could lose the response. So the rest of the request is
# read first, until the peer is silent for the one time, or until the other has passed.
_SILENCE_SECONDS = 1.0
_LINGER_SECONDS = 30.0


class Incoming:
    """`receive`, which notes whether the body has ended. After that it waits for the disconnect."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.ended = False

    async def __call__(self) -> Message:
        message = await self._receive()
        self.ended = self.ended or not message.get("more_body", False)
        return message


async def refuse(
    scope: Scope, incoming: Incoming, send: Send, error: RequestError, linger: float = _LINGER_SECONDS
) -> None:
    """Sends the error, discards the rest of the request, and closes the connection.

    Args:
        linger: seconds for which the rest is read.
    """
    reply = JSONResponse(error_replies.body(error, scope["path"]), error.status, error_replies.headers(error))
    headers = [*reply.raw_headers, (b"connection", b"close")]
    await send({"type": "http.response.start", "status": reply.status_code, "headers": headers})
    # this sends the whole response; the last, empty message closes the connection
    await send({"type": "http.response.body", "body": bytes(reply.body), "more_body": True})
    with suppress(TimeoutError):
        async with asyncio.timeout(linger):
            while not incoming.ended:
                # not wait_for, which may swallow the outer timeout (Python before 3.12)
                async with asyncio.timeout(_SILENCE_SECONDS):
                    await incoming()
    await send({"type": "http.response.body"})


def closing(send: Send) -> Send:
    """`send` that closes the connection after the response."""

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message.get("headers", ()), (b"connection", b"close")]}
        await send(message)

    return sending
