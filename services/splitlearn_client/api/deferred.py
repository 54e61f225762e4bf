"""Responses that are computed after their endpoint has returned."""

from collections.abc import Awaitable, Callable

from fastapi.responses import Response
from starlette.types import Receive, Scope, Send

from splitlearn_client.request_info import info_of


class DeferredResponse(Response):
    """A response that takes long. While it is made, nothing keeps the request's body: FastAPI holds the parsed body for
    as long as the endpoint runs. Errors become responses as those of the endpoint do.

    Args:
        make: gets the request's `receive`, which tells of the caller's disconnect. It must not hold the body.
    """

    def __init__(self, make: Callable[[Receive], Awaitable[Response]]) -> None:
        super().__init__()
        self._make = make

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        info_of(scope).release_body()
        response = await self._make(receive)
        await response(scope, receive, send)
