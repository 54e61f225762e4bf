"""The client's end of one session."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from types import TracebackType
from typing import Any, Self, TypeVar

import grpc
import grpc.aio

from splitlearn_comm import wire
from splitlearn_comm.core import SessionOpening
from splitlearn_comm.errors import Cancelled, CommError, RemoteFailure, TimedOut
from splitlearn_comm.frames import Frame, Reply

_T = TypeVar("_T")


class ClientStream:
    """Frames out, replies in, in the same order. The first frame carries the open.

    Replies are taken off the wire as they come, by one task for the life of the stream. So frames may be sent
    without receiving in between: both ends never wait for each other to read.

    An error that the server sent in a frame's place leaves the stream usable. Any other ends it: `ended`
    tells, and from then on every call raises the error that ended it.

    Leaving the context closes the stream, or cancels it when an exception passes. One task sends and one
    receives (they may be the same).
    """

    def __init__(
        self, call: grpc.aio.StreamStreamCall, opening: SessionOpening, *, address: str, timeout: float
    ) -> None:
        self.opening = opening
        self.bytes_sent = 0
        self.bytes_received = 0
        self._call = call
        self._unsent_opening: SessionOpening | None = opening
        self._address = address
        self._timeout = timeout
        # Serialized replies; None once, at the end.
        self._arrived: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._closing = False
        self._end: CommError | None = None
        self._end_told = False
        self._status: wire.Status | None = None
        call.add_done_callback(self._keep_status)
        self._reader = asyncio.create_task(self._read(), name=f"replies of {opening.session_id}")

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<{type(self).__name__} {self.opening.session_id!r} at {self._address} {state}>"

    @property
    def ended(self) -> bool:
        return self._reader.done()

    async def send(self, frame: Frame, timeout: float | None = None) -> None:
        """Hand one frame to the network. One that is refused here (InvalidTensor) was not sent, no reply is owed.

        Args:
            timeout: seconds; the client's own when None. When it runs out the stream is cancelled.
        """
        data = wire.encode_request(self._unsent_opening, frame)
        deadline = self._deadline("take the frame", timeout)
        try:
            await self._write(data)
        finally:
            deadline.cancel()
        self._unsent_opening = None
        self.bytes_sent += len(data)

    async def receive(self, timeout: float | None = None) -> Reply:
        """The reply to the oldest frame that has none yet, or the error in its place, raised.

        Args:
            timeout: seconds; the client's own when None. When it runs out the stream is cancelled.
        """
        deadline = self._deadline("reply", timeout)
        try:
            data = await self._arrived.get()
        finally:
            deadline.cancel()
        if data is None:
            self._arrived.put_nowait(None)
            raise self._ending()
        return wire.decode_reply(data)

    async def step(self, frame: Frame, timeout: float | None = None) -> Reply:
        """Send one frame and wait for its reply. Every earlier reply must have been received."""
        await self.send(frame, timeout)
        return await self.receive(timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Say that no frame follows, drop replies not yet received, wait until the server closed the session.

        Raises:
            CommError: what ended the stream before, unless a call has raised it already.
        """
        self._closing = True
        if self._unsent_opening is not None:
            # The server knows of no session yet.
            self.cancel()
            await self._ended()
            return
        deadline = self._deadline("close the session", timeout)
        try:
            await self._call.done_writing()
            await self._ended()
        finally:
            deadline.cancel()
        if self._end is not None and not self._end_told:
            raise self._ending()

    def cancel(self) -> None:
        """Give the session up at once, whatever is under way. The server closes it when it hears of it."""
        # Whoever cancels knows it: closing afterwards is no error.
        self._end, self._end_told = self._end or self._given_up(), True
        self._call.cancel()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.cancel()
            await self._ended()

    async def _write(self, data: bytes) -> None:
        try:
            if self._unsent_opening is None:
                await self._call.write(data)
            else:
                await self._write_first(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The call is over. Only the reader learns why, and it may be a loop turn behind.
            await self._ended()
            raise self._ending() from None
        except asyncio.CancelledError:
            # grpc raises this for a cancelled call too; then this task is not meant, and gets an error of ours.
            if is_being_cancelled():
                raise
            await self._ended()
            raise self._ending() from None

    async def _write_first(self, data: bytes) -> None:
        # As long as there is no connection, grpc's write does not notice that its call was cancelled, and waits
        # for ever (seen with grpcio 1.85). Its read does notice.
        writing = asyncio.create_task(self._call.write(data))
        try:
            await asyncio.wait({writing, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not writing.done():
                writing.cancel()
        await writing

    async def _read(self) -> None:
        """Never raises: how the stream ended is kept for whoever asks next."""
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                self.bytes_received += len(data)
                self._arrived.put_nowait(data)
            end = self._verdict()
        except grpc.aio.AioRpcError:
            end = self._verdict()
        except asyncio.CancelledError:
            end = self._given_up()
        self._end = self._end or end
        self._arrived.put_nowait(None)

    def _keep_status(self, call: grpc.aio.StreamStreamCall) -> None:
        # Taken when it arrives, because grpcio overwrites it with INTERNAL when a write fails after it
        # (grpc/grpc issue 36066), which is the rule when an open is refused while frames are being sent.
        self._status = at_once(call.code()), at_once(call.details()), at_once(call.trailing_metadata())

    def _verdict(self) -> CommError | None:
        """How the server ended the stream; None if as it was asked to."""
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            return wire.error_of(self._status, self._address)
        if self._closing:
            return None
        return RemoteFailure(f"{self._address} ended the stream without a reason; see the server's log")

    async def _ended(self) -> None:
        # wait() and not await: a caller that is cancelled here must not take the reader along.
        await asyncio.wait({self._reader})

    def _ending(self) -> CommError:
        self._end_told = True
        return self._end or Cancelled(f"session {self.opening.session_id!r} is closed")

    def _given_up(self) -> CommError:
        return Cancelled(f"session {self.opening.session_id!r} was cancelled at this end")

    def _deadline(self, what: str, timeout: float | None) -> asyncio.TimerHandle:
        seconds = self._timeout if timeout is None else timeout
        return asyncio.get_running_loop().call_later(seconds, self._expire, what, seconds)

    def _expire(self, what: str, seconds: float) -> None:
        # Which reply belongs to which frame is no longer sure, so the stream cannot go on.
        self._end = self._end or TimedOut(
            f"{self._address} did not {what} within {seconds:g} s; the stream is cancelled"
        )
        self._call.cancel()


def is_being_cancelled() -> bool:
    """Whether a CancelledError now under way is meant for the running task, and not for a gRPC call of it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that has nothing to wait for, without an event loop's turn."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: _T = finished.value
        return result
    raise RuntimeError("the coroutine waits; grpc calls its done callbacks before the status is known")
