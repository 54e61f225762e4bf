"""What a server admits at a time: streams, and bytes of rows. It computes only on integers and times passed in."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from splitlearn_comm.errors import Overloaded
from splitlearn_comm.options import MAX_MESSAGE_BYTES

# Single-token frames are always admitted: the number of streams bounds the memory that they hold.
SMALL_BYTES: Final = 2**16
# How long a stream must have waited for its client before a new stream may evict it: for its first frame, and for the
# next one.
SILENT_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30.0
_RETRY_AFTER: Final = 1.0
_MOST_STREAMS: Final = 1024
# Calls that are over but for what their sender does not read. Each keeps one message.
_MOST_UNREAD: Final = 16


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What all clients of a server together may use.

    Attributes:
        message_bytes: largest message, and largest size of one frame's rows, encoded and decoded.
        streams: most streams open at a time; others are told to come back later.
        first_frame_seconds: a session is closed if its first frame takes longer, or if it stays open for longer after
            `finish`.
        bytes_in_flight: largest total size of the frames received but not yet answered, in all sessions.
    """

    message_bytes: int = MAX_MESSAGE_BYTES
    streams: int = _MOST_STREAMS
    first_frame_seconds: float = 60.0
    bytes_in_flight: int = 2**30

    def __post_init__(self) -> None:
        for name in ("message_bytes", "streams", "first_frame_seconds", "bytes_in_flight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be greater than 0, got {getattr(self, name)}")

    @staticmethod
    def streams_within(memory_bytes: int, message_bytes: int) -> int:
        """How many streams may all stall just before the end of a message.

        gRPC buffers a partial message and reports nothing until all of it has arrived, and it has no limit over all
        streams that Python could set (its ResourceQuota is for C++ only). So only their number bounds this memory.
        """
        return max(1, min(_MOST_STREAMS, memory_bytes // message_bytes))


class Place:
    """One stream's slot among those that may be open. Owned by the stream, which leaves it when it ends.

    Args:
        give_up: ends the stream; called at most once, when `Admission.enter` evicts it for another stream.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.give_up = give_up
        self.is_lost = False
        self.waits_since = 0.0


class Admission:
    """Counts streams and bytes. Runs on its server's event loop.

    When all slots are taken, a new stream evicts one that has nothing to do, so that idle streams keep nobody out.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self._open = 0
        self._bytes = 0
        # Streams that wait for their client, longest-waiting first: before their first frame or after their last, and
        # between two frames.
        self._silent: dict[Place, None] = {}
        self._idle: dict[Place, None] = {}
        self._unread: Counter[str] = Counter()

    @property
    def n_open(self) -> int:
        return self._open

    @property
    def bytes_in_flight(self) -> int:
        return self._bytes

    def enter(self, now: float, give_up: Callable[[], None], sender: str) -> Place:
        """A slot for a new stream, which starts silent.

        Args:
            sender: its identity.

        Raises:
            Overloaded: all slots are taken by streams that are working or began to wait only a moment ago, or the
                sender does not read what it is sent.
        """
        if self._unread[sender] >= _MOST_UNREAD:
            raise Overloaded(
                f"{_MOST_UNREAD} streams of this sender are over, and it has not read their replies; read them first",
                _RETRY_AFTER,
            )
        if self._open >= self.limits.streams and not self._make_room(now):
            raise Overloaded(
                f"{self._open} streams are open; the limit is {self.limits.streams}; try again later", _RETRY_AFTER
            )
        self._open += 1
        place = Place(give_up)
        self.waits(place, now, silent=True)
        return place

    def works(self, place: Place) -> None:
        """Mark a stream as working: its client sent something."""
        self._silent.pop(place, None)
        self._idle.pop(place, None)

    def waits(self, place: Place, now: float, *, silent: bool = False) -> None:
        """Mark a stream as waiting for its client. `silent`: no frame was sent yet, or none will follow."""
        self.works(place)
        place.waits_since = now
        (self._silent if silent else self._idle)[place] = None

    @contextmanager
    def sending(self, place: Place, now: float) -> Iterator[None]:
        """Count a stream as waiting for its client, which has to read, for as long as the context lasts."""
        is_silent, since = place in self._silent, place.waits_since
        works = not is_silent and place not in self._idle
        self.waits(place, now)
        # An error means that the client is gone: its stream keeps nobody out while it is closed.
        yield
        if not place.is_lost:
            self.works(place)
            if not works:
                self.waits(place, since, silent=is_silent)

    @contextmanager
    def unread(self, sender: str) -> Iterator[None]:
        """Count a call that has left, and waits only for its sender to read, for as long as the context lasts."""
        self._unread[sender] += 1
        try:
            yield
        finally:
            self._unread[sender] -= 1
            # whoever reads is forgotten
            self._unread += Counter()

    def leave(self, place: Place) -> None:
        self.works(place)
        if not place.is_lost:
            self._open -= 1

    @contextmanager
    def holding(self, n_bytes: int) -> Iterator[None]:
        """Count bytes as in flight for as long as the context lasts.

        Raises:
            Overloaded: too many are in flight. The frame is refused, not queued, because a queued one uses memory too.
        """
        if n_bytes > SMALL_BYTES and self._bytes + n_bytes > self.limits.bytes_in_flight:
            raise Overloaded(
                f"frames of {self._bytes} bytes are being worked on, and {self.limits.bytes_in_flight} may be; "
                "try again later",
                _RETRY_AFTER,
            )
        self._bytes += n_bytes
        try:
            yield
        finally:
            self._bytes -= n_bytes

    def _make_room(self, now: float) -> bool:
        for waiting, seconds in ((self._silent, SILENT_SECONDS), (self._idle, IDLE_SECONDS)):
            oldest = next(iter(waiting), None)
            if oldest is not None and now - oldest.waits_since >= seconds:
                oldest.is_lost = True
                self.leave(oldest)
                self._open -= 1
                oldest.give_up()
                return True
        return False


def lost_place() -> Overloaded:
    """The error for a stream that was evicted for another one."""
    return Overloaded("the stream was idle and was evicted for another one; open a new one later", _RETRY_AFTER)
