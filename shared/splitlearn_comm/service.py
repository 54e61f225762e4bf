"""The calls of ComputeService: bytes in, bytes out, and every session is closed exactly once."""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType

import grpc
import structlog

from splitlearn_comm import wire
from splitlearn_comm.admission import Admission, ServerLimits
from splitlearn_comm.authentication import sender_of
from splitlearn_comm.compute_calls import ComputeCalls
from splitlearn_comm.core import SessionHost, WireObserver
from splitlearn_comm.errors import CommError, NotServed, RemoteFailure
from splitlearn_comm.frames import ServiceInfo
from splitlearn_comm.heap import HeapTrimmer
from splitlearn_comm.outgoing import Outgoing
from splitlearn_comm.session_calls import SessionCalls
from splitlearn_comm.statuses import kind_of, status_of

log = structlog.get_logger(__name__)


class ComputeService:
    """Serves one session host, computes, or both."""

    def __init__(
        self,
        session_host: SessionHost | None,
        computes: ComputeCalls | None,
        observer: WireObserver,
        limits: ServerLimits,
    ) -> None:
        if session_host is None and computes is None:
            raise ValueError("nothing to serve: pass session_host, compute_fn or both")
        self._session_host = session_host
        admission = Admission(limits)
        self._admission = admission
        self._heap = HeapTrimmer()
        self._sessions = None if session_host is None else SessionCalls(session_host, admission, observer, self._heap)
        self._computes = computes
        self._observer = observer
        self._started_at = time.monotonic()
        self._instance = uuid.uuid4().hex
        # Calls in progress. Cutting one off does not wait for its session to close; finish() does.
        self._unfinished: set[asyncio.Future[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """The RPC handlers. They have no serializers: grpc passes bytes through, and only `wire` interprets them."""
        return grpc.method_handlers_generic_handler(
            wire.SERVICE,
            {
                "Compute": grpc.stream_stream_rpc_method_handler(self._compute),
                "Stream": grpc.stream_stream_rpc_method_handler(self._stream),
                "GetServiceInfo": grpc.unary_unary_rpc_method_handler(self._get_service_info),
            },
        )

    async def setup(self) -> None:
        if self._computes is not None:
            await self._computes.setup()

    def release_idle(self) -> None:
        """End Compute streams that clients only keep open for later calls. Sessions do not count as idle."""
        if self._computes is not None:
            self._computes.release_idle()

    async def finish(self) -> None:
        """Wait until every session is closed, then tear down the compute function. No new call may arrive."""
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        self._heap.stop()
        if self._sessions is not None:
            await self._sessions.finish()
        if self._computes is not None:
            await self._computes.teardown()

    async def _compute(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        outgoing = Outgoing(context)
        async with self._under_way(), self._edge(context, "Compute", outgoing):
            if self._computes is None:
                raise NotServed("this server has no compute function; it serves streams")
            await self._computes.serve(context, outgoing, self._admission)

    async def _get_service_info(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with self._edge(context, "GetServiceInfo", Outgoing(context)):
            info = self._info()
            uptime = time.monotonic() - self._started_at
            total = sum(calls.total_requests for calls in (self._sessions, self._computes) if calls is not None)
            return wire.encode_info(replace(info, total_requests=total, uptime_seconds=uptime, instance=self._instance))

    def _info(self) -> ServiceInfo:
        if self._session_host is not None:
            return self._session_host.info()
        if self._computes is not None:
            return self._computes.info()
        raise NotServed("this server serves nothing")

    async def _stream(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        outgoing = Outgoing(context)
        async with self._under_way(), self._edge(context, "Stream", outgoing):
            if self._sessions is None:
                raise NotServed("this server opens no sessions; it serves Compute")
            await self._sessions.serve(context, outgoing)

    def _edge(self, context: grpc.aio.ServicerContext, call: str, outgoing: Outgoing) -> _StatusEdge:
        return _StatusEdge(context, call, outgoing, self._admission, self._observer, self._heap)

    @asynccontextmanager
    async def _under_way(self) -> AsyncIterator[None]:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unfinished.add(over)
        try:
            yield
        finally:
            self._unfinished.discard(over)
            over.set_result(None)


class _StatusEdge:
    """Turns an exception that leaves the server into a gRPC status. Cancellation passes: no client is left to tell."""

    def __init__(
        self,
        context: grpc.aio.ServicerContext,
        call: str,
        outgoing: Outgoing,
        admission: Admission,
        observer: WireObserver,
        heap: HeapTrimmer,
    ) -> None:
        self._heap = heap
        self._context = context
        self._call = call
        self._outgoing = outgoing
        self._admission = admission
        self._observer = observer

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is not None:
            # also after a message above the limit, which grpc refuses by cancelling the call
            self._heap.soon()
        if not isinstance(error, Exception):
            return
        if not isinstance(error, CommError):
            log.error("unexpected_error", call=self._call, exc_info=error)
            # Only the type: messages and tracebacks can contain what the peer must not see.
            error = RemoteFailure(f"{type(error).__name__} in {self._call}; the server's log says more")
        code, details, metadata = status_of(error)
        self._observer.refused(kind_of(error))
        # the session is closed and its place is free; only the message that the client does not read is left
        with self._admission.unread(sender_of(self._context)):
            await self._outgoing.read()
        await self._context.abort(code, details, metadata)
