"""The client end of one bidirectional call: messages out, messages in, and how the call ended."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, TypeVar

import grpc
import grpc.aio

from splitlearn_comm import forks
from splitlearn_comm.errors import Cancelled, CommError, InvalidReply, RemoteFailure, TimedOut
from splitlearn_comm.statuses import Status, error_of
from splitlearn_comm.waiting import MOST_AT_ONCE, SECONDS, WAITING

_T = TypeVar("_T")

# how often a deadline checks in its time whether this process runs
_LOOKS: Final = 8


class ByteStream:
    """One task takes messages off the wire as they arrive, for the life of the stream, so the two ends never wait for
    each other to read.

    The server may send only as many messages as this end has asked for; one more ends the stream. That bounds what can
    wait here to be received.

    The error that ends the stream is kept: `ended` is then True, and every later call raises that error.
    One task may send and one may receive (they may be the same).

    In a process that was forked from the one that opened the stream, every call raises Forked, and ending the stream
    does nothing, because it belongs to the parent.

    Args:
        name: what the stream is, for its errors.
        timeout: seconds that a call waits without hearing from the server, unless the call sets its own. When they
            have passed, the stream is cancelled, because it is no longer certain which reply belongs to which message.
    """

    def __init__(self, call: grpc.aio.StreamStreamCall, *, name: str, address: str, timeout: float) -> None:
        self.name = name
        self.address = address
        self.bytes_sent = 0
        self.bytes_received = 0
        self.received_at = 0.0
        """When the message that was received last had come, by the event loop's clock."""
        self._call = call
        self._timeout = timeout
        self._opened = asyncio.get_running_loop().time()
        self._sent = self._opened
        self._heard = 0.0
        self._words = 0
        self._begun = False
        self._is_accepted = False
        # Messages and when they came, then None at the end.
        self._arrived: asyncio.Queue[tuple[bytes, float] | None] = asyncio.Queue()
        self._owed = 0
        self._closing = False
        self._end: CommError | None = None
        self._end_told = False
        self._status: Status | None = None
        call.add_done_callback(self._keep_status)
        self._reader = asyncio.create_task(self._read(), name=f"replies of {name}")

    @property
    def ended(self) -> bool:
        return self._reader.done()

    @property
    def silent_seconds(self) -> float:
        """How long nothing was sent and nothing was heard from the server."""
        return asyncio.get_running_loop().time() - max(self._sent, self._heard)

    async def send(self, data: bytes, timeout: float | None = None, *, answers: int = 1) -> None:
        """Hand one message to the network. `answers` is the number of messages that the server owes for it."""
        forks.check()
        self._owed += answers
        deadline = self._deadline("take the message", timeout)
        try:
            await self._write(data)
        finally:
            deadline.cancel()

    async def receive(self, timeout: float | None = None) -> bytes:
        """Return the oldest message not yet received."""
        forks.check()
        deadline = self._deadline("reply", timeout)
        try:
            return await self._next()
        finally:
            deadline.cancel()

    async def exchange(self, data: bytes, timeout: float | None = None) -> bytes:
        """Send a message and receive its one reply, within one deadline."""
        forks.check()
        self._owed += 1
        deadline = self._deadline("answer", timeout)
        try:
            await self._write(data)
            return await self._next()
        finally:
            deadline.cancel()

    async def close(self, timeout: float | None = None) -> None:
        """Announce that no message follows, drop those not yet received, wait until the server has ended the call.

        Raises:
            CommError: the error that ended the stream earlier, unless a call has already raised it.
        """
        if forks.is_forked():
            return
        self._closing = True
        if not self._begun:
            # The server does not know of the call yet.
            self.cancel()
            await self.wait_ended()
            return
        deadline = self._deadline("close the session", timeout)
        try:
            # of a connection that breaks just now; the reader learns why
            with suppress(grpc.aio.InternalError):
                await self._call.done_writing()
            await self.wait_ended()
        finally:
            deadline.cancel()
        if self._end is not None and not self._end_told:
            raise self._ending()

    def fail(self, error: CommError) -> None:
        """End the stream because the server sent something unusable."""
        self._end, self._end_told = self._end or error, True
        self._hang_up()

    def cancel(self) -> None:
        """Abandon the stream at once, whatever is in progress."""
        # The caller knows that it cancelled, so closing afterwards is not an error.
        self._end, self._end_told = self._end or self._given_up(), True
        self._hang_up()

    async def wait_ended(self) -> None:
        if not forks.is_forked():
            # wait(), not await: cancelling the caller here must not cancel the reader.
            await asyncio.wait({self._reader})

    def _hang_up(self) -> None:
        if not forks.is_forked():
            self._call.cancel()

    async def _next(self) -> bytes:
        arrived = await self._arrived.get()
        if arrived is None:
            self._arrived.put_nowait(None)
            raise self._ending()
        data, self.received_at = arrived
        return data

    async def _write(self, data: bytes) -> None:
        try:
            if self._begun:
                await self._accepted()
                await self._call.write(data)
            else:
                await self._write_first(data)
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            # The call is over. Only the reader learns why, and it may be one loop turn behind.
            await self.wait_ended()
            raise self._ending() from None
        except asyncio.CancelledError:
            # grpc also raises this for a cancelled call; this task is then not being cancelled, and gets our own error.
            if is_being_cancelled():
                raise
            await self.wait_ended()
            raise self._ending() from None
        self._begun = True
        self._sent = asyncio.get_running_loop().time()
        self.bytes_sent += len(data)

    async def _accepted(self) -> None:
        """Wait until the server has accepted the first message before sending more: if a write fails before a refusal
        arrives, grpc replaces the refusal with INTERNAL (grpc/grpc issue 36066)."""
        if self._is_accepted:
            return
        asking = asyncio.ensure_future(self._call.initial_metadata())
        try:
            await asyncio.wait({asking, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            asking.cancel()
        if self._reader.done():
            raise self._ending()
        self._is_accepted = True

    async def _write_first(self, data: bytes) -> None:
        # Without a connection, grpc's write does not notice that its call was cancelled, and waits forever
        # (seen with grpcio 1.85). Its read does notice.
        writing = asyncio.create_task(self._call.write(data))
        try:
            await asyncio.wait({writing, self._reader}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not writing.done():
                writing.cancel()
        await writing

    async def _read(self) -> None:
        """Read until the stream ends. Never raises: the next call learns how the stream ended."""
        try:
            while (data := await self._call.read()) is not grpc.aio.EOF:
                self._heard = asyncio.get_running_loop().time()
                if data == WAITING and self._owed and self._words_left():
                    continue
                self.bytes_received += len(data)
                if self._owed == 0:
                    self._end = self._end or InvalidReply(f"{self.address} sent more messages than were requested")
                    self._call.cancel()
                    break
                self._owed -= 1
                self._arrived.put_nowait((data, self._heard))
            end = self._verdict()
        except grpc.aio.AioRpcError:
            end = self._verdict()
        except asyncio.CancelledError:
            end = self._given_up()
        self._end = self._end or end
        self._arrived.put_nowait(None)

    def _words_left(self) -> bool:
        """Whether to accept one more WAITING message: enough to cover a slow network, but no flood."""
        self._words += 1
        return self._words <= MOST_AT_ONCE + (self._heard - self._opened) / SECONDS * 2

    def _keep_status(self, call: grpc.aio.StreamStreamCall) -> None:
        # Taken when it arrives, because grpcio overwrites it with INTERNAL if a write fails afterwards (grpc/grpc
        # issue 36066), which is the usual case when an open is refused while frames are being sent.
        self._status = at_once(call.code()), at_once(call.details()), at_once(call.trailing_metadata())

    def _verdict(self) -> CommError | None:
        """The error with which the server ended the stream; None if this end asked it to."""
        if self._status is not None and self._status[0] is not grpc.StatusCode.OK:
            return error_of(self._status, self.address)
        if self._closing:
            return None
        return RemoteFailure(f"{self.address} ended the stream without a reason; see the server's log")

    def _ending(self) -> CommError:
        self._end_told = True
        return self._end or Cancelled(f"{self.name} is closed")

    def _given_up(self) -> CommError:
        return Cancelled(f"{self.name} was cancelled at this end")

    def _deadline(self, what: str, timeout: float | None) -> _Deadline:
        return _Deadline(self, what, self._timeout if timeout is None else timeout)

    @property
    def heard(self) -> float:
        """When the server's last message came, by the event loop's clock."""
        return self._heard

    def expire(self, what: str, seconds: float) -> None:
        """End the stream because the server did not do `what` within `seconds`."""
        self._end = self._end or TimedOut(
            f"{self.address} did not {what} within {seconds:g} s; the stream is cancelled"
        )
        self._call.cancel()


class _Deadline:
    """Expires a stream unless it is cancelled first. Each message from the server restarts it.

    Time in which this process did not run is not the server's silence: its messages may have come and wait to be read.
    So each of a few looks adds to the deadline by how much it is late.
    """

    def __init__(self, stream: ByteStream, what: str, seconds: float) -> None:
        self._stream = stream
        self._what = what
        self._seconds = seconds
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._wait(seconds)

    def cancel(self) -> None:
        self._timer.cancel()

    def _wait(self, seconds_left: float) -> None:
        self._timer = self._loop.call_later(min(seconds_left, self._seconds / _LOOKS), self._look)

    def _look(self) -> None:
        now = self._loop.time()
        self._since = max(self._since, self._stream.heard) + (now - self._timer.when())
        if (left := self._since + self._seconds - now) > 0:
            self._wait(left)
        else:
            self._stream.expire(self._what, self._seconds)


def is_being_cancelled() -> bool:
    """Whether the current CancelledError is meant for the running task rather than for one of its gRPC calls."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def at_once(coroutine: Coroutine[Any, Any, _T]) -> _T:
    """The result of a coroutine that has nothing to wait for, without a turn of the event loop."""
    try:
        coroutine.send(None)
    except StopIteration as finished:
        result: _T = finished.value
        return result
    raise RuntimeError("the coroutine waits; grpc calls its done callbacks before the status is known")
