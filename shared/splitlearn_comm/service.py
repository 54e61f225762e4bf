"""The calls of ComputeService: bytes in, bytes out, every session closed once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from types import TracebackType

import grpc
import structlog

from splitlearn_comm import wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.compute_calls import ComputeCalls
from splitlearn_comm.core import Session, SessionHost, TensorCodec, WireObserver, codec_named
from splitlearn_comm.errors import CommError, InvalidRequest, InvalidTensor, NotServed, RemoteFailure
from splitlearn_comm.frames import Reply, ServiceInfo
from splitlearn_comm.messages import parse
from splitlearn_comm.waiting import told_to_wait

log = structlog.get_logger(__name__)


class ComputeService:
    """Serves one session host, computes, or both."""

    def __init__(self, session_host: SessionHost | None, computes: ComputeCalls | None, observer: WireObserver) -> None:
        if session_host is None and computes is None:
            raise ValueError("nothing to serve: pass session_host, compute_fn or both")
        self._session_host = session_host
        self._computes = computes
        self._observer = observer
        self._started_at = time.monotonic()
        self._total_frames = 0
        # Streams that run and sessions that close. What cuts a stream does not wait for its session; finish() does.
        self._unfinished: set[asyncio.Future[None]] = set()

    def handler(self) -> grpc.GenericRpcHandler:
        """Without serializers: grpc hands the bytes through, and wire alone knows what they mean."""
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
        """Let clients go that only keep a stream for later; sessions are not idle."""
        if self._computes is not None:
            self._computes.release_idle()

    async def finish(self) -> None:
        """Wait until every session is closed, then tear the compute function down. No new call may come."""
        while self._unfinished:
            await asyncio.wait(self._unfinished)
        if self._computes is not None:
            await self._computes.teardown()

    async def _compute(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        async with self._under_way(), _StatusEdge(context, "Compute"):
            if self._computes is None:
                raise NotServed("this server has no compute function; it serves streams")
            await self._computes.serve(context)

    async def _get_service_info(self, data: bytes, context: grpc.aio.ServicerContext) -> bytes:
        async with _StatusEdge(context, "GetServiceInfo"):
            info = self._info()
            uptime = time.monotonic() - self._started_at
            total = self._total_frames + (self._computes.total_requests if self._computes is not None else 0)
            return wire.encode_info(replace(info, total_requests=total, uptime_seconds=uptime))

    def _info(self) -> ServiceInfo:
        if self._session_host is not None:
            return self._session_host.info()
        if self._computes is not None:
            return self._computes.info()
        raise NotServed("this server serves nothing")

    async def _stream(self, _requests: object, context: grpc.aio.ServicerContext) -> None:
        async with self._under_way(), _StatusEdge(context, "Stream"):
            if self._session_host is None:
                raise NotServed("this server opens no sessions; it serves Compute")
            data = await context.read()
            if data is grpc.aio.EOF:
                return
            self._count_in(data)
            request = parse(pb2.StreamRequest(), data)
            opening = wire.read_opening(request)
            session = await self._session_host.open(opening)
            self._observer.session_opened()
            try:
                # tells the client that it may send more
                await context.send_initial_metadata(())
                await self._serve_frames(session, codec_named(opening.codec), request, context)
            finally:
                await self._close(session)

    async def _serve_frames(
        self,
        session: Session,
        codec: TensorCodec,
        request: pb2.StreamRequest,
        context: grpc.aio.ServicerContext,
    ) -> None:
        if request.open.prefix:
            await context.write(wire.encode_opened(session.reached))
        # One at a time: HTTP/2 flow control holds back a client that is ahead, and costs no task per frame.
        if request.HasField("frame"):
            await context.write(await self._answer(session, codec, request, context))
        while (data := await context.read()) is not grpc.aio.EOF:
            self._count_in(data)
            request = parse(pb2.StreamRequest(), data)
            if request.HasField("open"):
                raise InvalidRequest("only the first request of a stream carries `open`; open another stream")
            if request.HasField("keep"):
                session.keep(request.keep.names)
                continue
            await context.write(await self._answer(session, codec, request, context))

    async def _answer(
        self, session: Session, codec: TensorCodec, request: pb2.StreamRequest, context: grpc.aio.ServicerContext
    ) -> bytes:
        self._total_frames += 1
        try:
            async with told_to_wait(session, context.write):
                reply = await session.step(wire.read_frame(request))
        except CommError as refusal:
            answer = wire.encode_error(refusal)
        else:
            answer = await _encode_computed(reply, codec)
        self._observer.bytes_out(len(answer))
        return answer

    async def _close(self, session: Session) -> None:
        # A task of its own, and wait(), which leaves it alone: a stream that is cancelled again while its session
        # closes must not cut the closing short.
        closing = asyncio.ensure_future(session.close())
        self._unfinished.add(closing)
        closing.add_done_callback(self._closed)
        await asyncio.wait({closing})

    def _closed(self, closing: asyncio.Future[None]) -> None:
        self._unfinished.discard(closing)
        self._observer.session_closed()
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.error("session_close_failed", exc_info=error)

    @asynccontextmanager
    async def _under_way(self) -> AsyncIterator[None]:
        over: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._unfinished.add(over)
        try:
            yield
        finally:
            self._unfinished.discard(over)
            over.set_result(None)

    def _count_in(self, data: bytes) -> None:
        self._observer.bytes_in(len(data))


async def _encode_computed(reply: Reply, codec: TensorCodec) -> bytes:
    """A reply that cannot be sent is no refusal: the session has moved on already."""
    try:
        if codec.takes_long(reply.frame.rows):
            return await asyncio.to_thread(wire.encode_reply, reply, codec)
        return wire.encode_reply(reply, codec)
    except InvalidTensor as error:
        raise RemoteFailure(f"the reply cannot be sent: {error}") from error


class _StatusEdge:
    """Where an exception leaves the server as a gRPC status. Cancellation passes: there is no one to tell."""

    def __init__(self, context: grpc.aio.ServicerContext, call: str) -> None:
        self._context = context
        self._call = call

    async def __aenter__(self) -> None:
        pass

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception):
            return
        if not isinstance(error, CommError):
            log.error("unexpected_error", call=self._call, exc_info=error)
            # The type and nothing more: messages and tracebacks can hold what the peer must not see.
            error = RemoteFailure(f"{type(error).__name__} in {self._call}; the server's log says more")
        code, details, metadata = wire.status_of(error)
        await self._context.abort(code, details, metadata)
