"""How many calls of the services beside ours, health and reflection, one sender may have open at a time.

They need no session, and last as long as the sender likes: without a limit they are a place to keep memory in.
"""

from __future__ import annotations

import asyncio
import inspect
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

import grpc
import grpc.aio

from splitlearn_comm import wire
from splitlearn_comm.authentication import sender_of
from splitlearn_comm.errors import Overloaded
from splitlearn_comm.statuses import status_of

MOST_CALLS: Final = 16
_MAKERS: Final = {
    "unary_unary": grpc.unary_unary_rpc_method_handler,
    "unary_stream": grpc.unary_stream_rpc_method_handler,
    "stream_unary": grpc.stream_unary_rpc_method_handler,
    "stream_stream": grpc.stream_stream_rpc_method_handler,
}


class CallLimit(grpc.aio.ServerInterceptor):  # type: ignore[misc]  # grpc has no types
    """Refuses further calls of a sender that has `MOST_CALLS` open. Used on one event loop, behind `TokenCheck`."""

    def __init__(self) -> None:
        self._open: Counter[str] = Counter()

    async def intercept_service(
        self, continuation: Callable[[Any], Awaitable[Any]], call: grpc.HandlerCallDetails
    ) -> grpc.RpcMethodHandler | None:
        handler = await continuation(call)
        if handler is None or call.method.startswith(f"/{wire.SERVICE}/"):
            return handler
        kind = next(kind for kind in _MAKERS if getattr(handler, kind) is not None)
        counted = self._counted(getattr(handler, kind))
        return _MAKERS[kind](counted, handler.request_deserializer, handler.response_serializer)

    def _counted(self, behaviour: Callable[..., Any]) -> Callable[..., Any]:
        async def answer(request: Any, context: grpc.aio.ServicerContext) -> Any:
            if self._is_full(context):
                await context.abort(*_refusal())
            with self._counting(context):
                try:
                    if not inspect.isasyncgenfunction(behaviour):
                        return await behaviour(request, context)
                    async for each in behaviour(request, context):
                        await context.write(each)
                except grpc.aio.InternalError as error:
                    # the client is gone, and has not read; gRPC would log a traceback
                    raise asyncio.CancelledError from error

        return answer

    def _is_full(self, context: grpc.aio.ServicerContext) -> bool:
        return self._open[sender_of(context)] >= MOST_CALLS

    @contextmanager
    def _counting(self, context: grpc.aio.ServicerContext) -> Iterator[None]:
        sender = sender_of(context)
        self._open[sender] += 1
        try:
            yield
        finally:
            self._open[sender] -= 1
            # whoever has no call open is forgotten
            self._open += Counter()


def _refusal() -> tuple[Any, ...]:
    return status_of(Overloaded(f"{MOST_CALLS} calls of this sender are open, which is the limit; end one first"))
