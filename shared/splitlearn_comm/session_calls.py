"""The server end of Stream: the order of a session's messages, and the checks before anything is decoded.

A session is opening until its first request, then open, and closed once it has finished. A message out of
order ends the stream, as does any error that is not a refusal of one frame.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

import grpc
import grpc.aio
import structlog

from splitlearn_comm import wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.admission import Admission, Place, lost_place
from splitlearn_comm.authentication import client_name, sender_of
from splitlearn_comm.core import (
    PLAIN,
    Begins,
    ChecksFrames,
    Session,
    SessionHost,
    SessionOpening,
    TensorCodec,
    WireObserver,
)
from splitlearn_comm.errors import (
    CommError,
    Draining,
    InvalidRequest,
    InvalidTensor,
    RemoteFailure,
    SessionClosed,
    TimedOut,
)
from splitlearn_comm.event_loop import expire
from splitlearn_comm.frames import Frame, Reply
from splitlearn_comm.heap import HeapTrimmer
from splitlearn_comm.outgoing import Outgoing
from splitlearn_comm.request_context import RequestContext
from splitlearn_comm.statuses import kind_of
from splitlearn_comm.waiting import TellsProgress, told_to_wait

log = structlog.get_logger(__name__)

# seconds to sleep for each second spent on parsing long requests
_RESTS: Final = 3.0


class SessionCalls:
    """Streams of frames on one session host. `total_requests` counts all frames received, including refused ones."""

    def __init__(self, host: SessionHost, admission: Admission, observer: WireObserver, heap: HeapTrimmer) -> None:
        self.host = host
        self.admission = admission
        self.observer = observer
        self.heap = heap
        # One thread, so that decoding for some clients takes at most one core from the others.
        self.decoder = ThreadPoolExecutor(max_workers=1, thread_name_prefix="decode")
        # Requests with long lists of block hashes are parsed one at a time; other requests run in between.
        self._parsing = asyncio.Lock()
        self.total_requests = 0
        self._closing: set[asyncio.Task[None]] = set()

    async def serve(self, context: grpc.aio.ServicerContext, outgoing: Outgoing) -> None:
        """Serve one session, from its opening until the client has no more requests."""
        seconds = self.admission.limits.first_frame_seconds
        place: Place | None = None
        request_context = RequestContext.read(context.invocation_metadata() or ())
        # gRPC runs each call in a task of its own, whose log lines all get the id
        if request_context.request_id:
            structlog.contextvars.bind_contextvars(request_id=request_context.request_id)
        try:
            async with asyncio.timeout(seconds) as patience:
                sender = sender_of(context)
                place = self.admission.enter(time.monotonic(), lambda: expire(patience), sender)
                await _Call(self, context, outgoing, patience, place).run(request_context, sender)
        except TimeoutError:
            # otherwise the host raised it, which is a failure
            if not patience.expired():
                raise
            if place is not None and place.is_lost:
                raise lost_place() from None
            raise TimedOut(f"no frame came within {seconds:g} s; the session is closed") from None
        finally:
            if place is not None:
                self.admission.leave(place)
            # Not only after refusals: a message above the limit looks from here like a client that disconnected.
            self.heap.soon()

    async def parsed(self, data: bytes) -> pb2.StreamRequest:
        """Parse a request. However many long ones arrive, parsing takes at most a quarter of the event loop's time.

        Raises:
            InvalidRequest, InvalidTensor: the data is not a request, or exceeds a limit.
        """
        if not wire.is_expensive_request(data):
            return wire.parse_request(data)
        async with self._parsing:
            began = time.perf_counter()
            try:
                return wire.parse_request(data)
            finally:
                # One turn of the loop is not enough: the device thread, too, gets the GIL only between two parses.
                await asyncio.sleep(_RESTS * (time.perf_counter() - began))

    async def close(self, session: Session) -> None:
        """Return once the session is closed. It is closed even if the caller is cancelled while waiting."""
        # wait() does not cancel the task when the caller is cancelled
        closing = asyncio.ensure_future(session.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closed)
        await asyncio.wait({closing})

    async def finish(self) -> None:
        """Wait until every session is closed."""
        while self._closing:
            await asyncio.wait(self._closing)
        self.decoder.shutdown()

    def _closed(self, closing: asyncio.Task[None]) -> None:
        self._closing.discard(closing)
        self.observer.session_closed()
        if not closing.cancelled() and (error := closing.exception()) is not None:
            log.error("session_close_failed", exc_info=error)


class _Call:
    """One stream, message by message. No message is kept in memory while the next one is awaited."""

    def __init__(
        self,
        calls: SessionCalls,
        context: grpc.aio.ServicerContext,
        outgoing: Outgoing,
        patience: asyncio.Timeout,
        place: Place,
    ) -> None:
        self._calls = calls
        self._limits = calls.admission.limits
        self._context = context
        self._outgoing = outgoing
        self._patience = patience
        self._place = place
        # none until the opening was read
        self._codec: TensorCodec = PLAIN
        # the session, if it has these parts: asking for each frame would take as long as reading it
        self._checks: ChecksFrames | None = None
        self._progress: TellsProgress | None = None

    async def run(self, request_context: RequestContext, sender: str) -> None:
        request = await self._read()
        if request is None:
            return
        try:
            opening = replace(
                wire.read_opening(request),
                client=client_name.get(),
                identity=sender,
                context=request_context,
            )
            session = await self._calls.host.open(opening)
        except BaseException:
            # The error's traceback references this frame, and grpc turns both into a long-lived reference cycle.
            request.Clear()
            raise
        self._calls.observer.session_opened()
        self._checks = session if isinstance(session, ChecksFrames) else None
        self._progress = session if isinstance(session, TellsProgress) else None
        try:
            # tells the client that it may send more
            await self._context.send_initial_metadata(())
            if opening.has_reply:
                await self._begin(session)
                await self._write(wire.encode_opened(session.reached))
            if request.HasField("frame"):
                await self._answer(session, request)
            request.Clear()
            while await self._next(session, opening):
                pass
        finally:
            await self._calls.close(session)

    async def _begin(self, session: Session) -> None:
        if isinstance(session, Begins):
            async with told_to_wait(self._progress, self._write):
                await session.begin()

    async def _next(self, session: Session, opening: SessionOpening) -> bool:
        """Handle one message; False when none follows. Never more than one at a time: HTTP/2 flow control holds back a
        client that is ahead, and needs no task per frame."""
        request = await self._read()
        if request is None:
            return False
        if request.HasField("open"):
            raise InvalidRequest("only the first request of a stream carries `open`; open another stream")
        if request.HasField("finish"):
            session.finish(wire.read_finish(request, opening))
            return await self._nothing_more()
        await self._answer(session, request)
        return True

    async def _nothing_more(self) -> bool:
        """After `finish` the client must end the stream, within the time that it has for its first frame."""
        self._patience.reschedule(asyncio.get_running_loop().time() + self._limits.first_frame_seconds)
        self._calls.admission.waits(self._place, time.monotonic(), silent=True)
        if await self._read() is not None:
            raise SessionClosed("the session ended with `finish` and takes no more requests; open another stream")
        return False

    async def _read(self) -> pb2.StreamRequest | None:
        data = await self._context.read()
        if data is grpc.aio.EOF:
            return None
        try:
            request = await self._calls.parsed(data)
            # only the first request of a stream has an opening
            self._codec = wire.read_session_codec(request) or self._codec
        finally:
            self._calls.observer.bytes_in(len(data), self._codec.name)
        return request

    async def _write(self, data: bytes) -> None:
        self._calls.observer.bytes_out(len(data), self._codec.name)
        with self._calls.admission.sending(self._place, time.monotonic()):
            await self._outgoing.write(data)

    async def _answer(self, session: Session, request: pb2.StreamRequest) -> None:
        self._patience.reschedule(None)
        self._calls.admission.works(self._place)
        self._calls.total_requests += 1
        try:
            answer = await self._answered(session, request)
        except (Draining, RemoteFailure, SessionClosed):
            raise
        except CommError as refusal:
            self._calls.observer.refused(kind_of(refusal))
            self._calls.heap.soon()
            answer = wire.encode_error(refusal)
        await self._write(answer)
        self._calls.admission.waits(self._place, time.monotonic())

    async def _answered(self, session: Session, request: pb2.StreamRequest) -> bytes:
        """Check sizes, then decode, then step. Each form of the rows is freed once the next one exists."""
        encoded = wire.read_frame(request)
        request.Clear()
        n_bytes, most = encoded.n_bytes, self._limits.message_bytes
        if n_bytes > most:
            raise InvalidTensor(f"the rows take {n_bytes} bytes, a frame has at most {most}; send them in several")
        if self._checks is not None:
            self._checks.check(encoded.header)
        with self._calls.admission.holding(n_bytes):
            frame = await self._decoded(encoded)
            del encoded
            async with told_to_wait(self._progress, self._write):
                reply = await session.step(frame)
        return await _encode_computed(reply, self._codec)

    async def _decoded(self, encoded: wire.EncodedFrame) -> Frame:
        if encoded.is_expensive:
            return await asyncio.get_running_loop().run_in_executor(self._calls.decoder, encoded.decode)
        return encoded.decode()


async def _encode_computed(reply: Reply, codec: TensorCodec) -> bytes:
    """A reply that cannot be sent is a failure, not a refusal, because the session has already advanced."""
    try:
        if codec.is_expensive(reply.frame.rows):
            return await asyncio.to_thread(wire.encode_reply, reply, codec)
        return wire.encode_reply(reply, codec)
    except InvalidTensor as error:
        raise RemoteFailure(f"the reply cannot be sent: {error}") from error
