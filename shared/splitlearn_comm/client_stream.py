"""The client end of one session."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import Self

from splitlearn_comm import forks, wire
from splitlearn_comm.byte_stream import ByteStream
from splitlearn_comm.core import SessionOpening, codec_named
from splitlearn_comm.errors import InvalidReply
from splitlearn_comm.frames import Frame, FrameHeader, Reply


class ClientStream:
    """Sends frames and receives replies, in the same order. The first frame carries the open.

    Replies are taken off the wire as they arrive, so frames may be sent without receiving in between.

    An error that the server sends in place of a reply leaves the stream usable. Any other error ends it, including a
    reply that does not match its frame. `ended` is then True, and every later call raises the error that ended it.

    Leaving the context closes the stream, or cancels it on an exception. One task may send and one may
    receive (they may be the same).
    """

    def __init__(self, stream: ByteStream, opening: SessionOpening) -> None:
        self.opening = opening
        self._stream = stream
        self._codec = codec_named(opening.codec)
        self._unsent_opening: SessionOpening | None = opening
        # Frames that have no reply yet, oldest first.
        self._asked: deque[FrameHeader] = deque()

    def __repr__(self) -> str:
        state = "ended" if self.ended else "open"
        return f"<{type(self).__name__} {self.opening.session_id!r} at {self._stream.address} {state}>"

    @property
    def ended(self) -> bool:
        return self._stream.ended

    @property
    def bytes_sent(self) -> int:
        """Payload of protobuf messages, without gRPC and HTTP/2 framing."""
        return self._stream.bytes_sent

    @property
    def bytes_received(self) -> int:
        return self._stream.bytes_received

    @property
    def received_at(self) -> float:
        """When the last reply that was received had come, by the event loop's clock; it may have waited here since."""
        return self._stream.received_at

    @property
    def silent_seconds(self) -> float:
        """How long nothing was sent and nothing was heard from the server."""
        return self._stream.silent_seconds

    async def open(self, timeout: float | None = None) -> int:
        """Open the session before its first frame, if the server replies to its opening.

        Returns:
            The number of rows that the session begins with.
        """
        request = wire.encode_request(self._unsent_opening, None)
        self._unsent_opening = None
        data = await self._stream.exchange(request, timeout)
        with self._ending_at_nonsense():
            return wire.decode_opened(data, self.opening.max_length)

    async def finish(self, block_hashes: Sequence[bytes]) -> None:
        """Announce that no frame will follow, and give the hashes of the blocks that the server may cache."""
        await self._stream.send(wire.encode_finish(block_hashes), answers=0)

    async def send(self, frame: Frame, timeout: float | None = None) -> None:
        """Hand one frame to the network. A frame that is refused here (InvalidTensor) is not sent and gets no reply.

        A session whose opening has a reply is opened first, if it is not open yet.

        Args:
            timeout: seconds; None uses the client's. When it expires, the stream is cancelled.
        """
        # before a pool thread is asked to encode, because no thread survives a fork
        forks.check()
        if self._unsent_opening is not None and self._unsent_opening.has_reply:
            await self.open(timeout)
        if self._codec.is_expensive(frame.rows):
            data = await asyncio.to_thread(wire.encode_request, self._unsent_opening, frame, self._codec)
        else:
            data = wire.encode_request(self._unsent_opening, frame, self._codec)
        self._asked.append(FrameHeader.of(frame))
        await self._stream.send(data, timeout)
        self._unsent_opening = None

    async def receive(self, timeout: float | None = None) -> Reply:
        """Return the reply to the oldest frame that has none yet, or raise the error sent in its place.

        Args:
            timeout: seconds; None uses the client's. When it expires, the stream is cancelled.
        """
        data = await self._stream.receive(timeout)
        with self._ending_at_nonsense():
            asked = self._asked.popleft()
            if self._codec.is_expensive_to_decode(len(data)):
                return await asyncio.to_thread(wire.decode_reply, data, asked, self.opening.codec)
            return wire.decode_reply(data, asked, self.opening.codec)

    async def step(self, frame: Frame, timeout: float | None = None) -> Reply:
        """Send one frame and wait for its reply. All earlier replies must have been received."""
        await self.send(frame, timeout)
        return await self.receive(timeout)

    async def close(self, timeout: float | None = None) -> None:
        """Announce that no frame follows, drop replies not yet received, wait until the server has closed the session.

        Raises:
            CommError: the error that ended the stream earlier, unless a call has already raised it.
        """
        await self._stream.close(timeout)

    def cancel(self) -> None:
        """Abandon the session at once, whatever is in progress. The server closes it when it sees the cancellation."""
        self._stream.cancel()

    async def wait_ended(self) -> None:
        """Return once the stream has ended, for whatever reason."""
        await self._stream.wait_ended()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            self.cancel()
            await self.wait_ended()

    @contextmanager
    def _ending_at_nonsense(self) -> Iterator[None]:
        """End the stream at an unusable reply: a server that sends one is unlikely to send better ones."""
        try:
            yield
        except InvalidReply as error:
            self._stream.fail(error)
            raise
