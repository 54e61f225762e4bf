"""The server's check of tokens: a call without a valid one ends before any of its messages is read."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from typing import Any, Final

import grpc
import grpc.aio
import structlog

from splitlearn_comm.core import WireObserver
from splitlearn_comm.errors import Unauthenticated
from splitlearn_comm.identity import identity_of
from splitlearn_comm.statuses import kind_of, status_of
from splitlearn_comm.token_files import Tokens
from splitlearn_comm.tokens import HEADER, bearer

log = structlog.get_logger(__name__)

client_name: ContextVar[str] = ContextVar("client_name", default="")
"""In the task of a call: the name of the token that came with it; empty if the server asks for none."""


def sender_of(context: grpc.aio.ServicerContext) -> str:
    """The identity of a call's sender, in the task of the call."""
    return identity_of(client_name.get(), context)


# a client polls twice a second
_LOG_SECONDS: Final = 60.0
_REFUSAL: Final = Unauthenticated("this worker asks for a token, and the call had no valid one")


class TokenCheck(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Lets calls of every service of the server through that have a valid token. Used on one event loop."""

    def __init__(self, tokens: Tokens, observer: WireObserver) -> None:
        self._tokens = tokens
        self._observer = observer
        # grpc does not mind that it stands in for unary calls too: their answer is an error without a message
        self._refusing = grpc.stream_stream_rpc_method_handler(self._refuse)
        self._n_refused = 0
        self._logged = -_LOG_SECONDS

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], call: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler:
        token = bearer(str(value) for key, value in call.invocation_metadata if key == HEADER)
        name = None if token is None else self._tokens.name_of(token)
        if name is None:
            return self._refusing
        # the call is handled in this task
        client_name.set(name)
        return await continuation(call)

    async def _refuse(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        self._observer.refused(kind_of(_REFUSAL))
        self._n_refused += 1
        now = time.monotonic()
        if now - self._logged >= _LOG_SECONDS:
            log.warning("calls without a valid token were refused", calls=self._n_refused, last_peer=context.peer())
            self._n_refused, self._logged = 0, now
        await context.abort(*status_of(_REFUSAL))
