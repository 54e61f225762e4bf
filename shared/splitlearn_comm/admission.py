"""What a server lets in at a time: streams, and bytes of rows. Decides on integers, and on times that it is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from splitlearn_comm.errors import Overloaded
from splitlearn_comm.options import MAX_MESSAGE_BYTES

# Frames of single tokens always come in: what they hold is bounded by the number of streams.
SMALL_BYTES: Final = 2**16
# How long a stream must have waited for its client before it may lose its place to one that comes: for its first
# frame, and for the next one.
SILENT_SECONDS: Final = 1.0
IDLE_SECONDS: Final = 30.0
_RETRY_AFTER: Final = 1.0
_MOST_STREAMS: Final = 1024


@dataclass(frozen=True, slots=True)
class ServerLimits:
    """What a server bears of all its clients together.

    Attributes:
        message_bytes: of one message, and of the rows of one frame, encoded and decoded.
        streams: open at a time; more are told to come later.
        first_frame_seconds: a session whose first frame takes longer is closed, as is one that stays open after it
            was told to keep its rows.
        bytes_in_flight: of frames that came and are not answered yet, in all sessions together.
    """

    message_bytes: int = MAX_MESSAGE_BYTES
    streams: int = _MOST_STREAMS
    first_frame_seconds: float = 60.0
    bytes_in_flight: int = 2**30

    def __post_init__(self) -> None:
        for name in ("message_bytes", "streams", "first_frame_seconds", "bytes_in_flight"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} is more than 0, got {getattr(self, name)}")

    @staticmethod
    def streams_within(memory_bytes: int, message_bytes: int) -> int:
        """How many streams may all stop just before the end of a message.

        gRPC holds what came of a message and tells nobody of it before all of it has come, and it has no bound over all
        streams that Python could set (its ResourceQuota is C++'s alone). So only their number bounds it.
        """
        return max(1, min(_MOST_STREAMS, memory_bytes // message_bytes))


class Place:
    """One stream's place among those that may be open. Owned by the stream, which leaves it at its end.

    Args:
        give_up: ends the stream; called at most once, by `Admission.enter` of another.
    """

    def __init__(self, give_up: Callable[[], None]) -> None:
        self.give_up = give_up
        self.is_lost = False
        self.waits_since = 0.0


class Admission:
    """Counts streams and bytes. On one event loop, as the server whose it is.

    When all places are taken, a new stream gets the place of one that has nothing to do: so nobody is kept out by
    streams that only are there.
    """

    def __init__(self, limits: ServerLimits) -> None:
        self.limits = limits
        self._open = 0
        self._bytes = 0
        # Those that wait for their client, in the order in which they began to: before their first frame or after
        # their last one, and between two.
        self._silent: dict[Place, None] = {}
        self._idle: dict[Place, None] = {}

    @property
    def n_open(self) -> int:
        return self._open

    @property
    def bytes_in_flight(self) -> int:
        return self._bytes

    def enter(self, now: float, give_up: Callable[[], None]) -> Place:
        """A place for a stream, which begins silent.

        Raises:
            Overloaded: all are taken, by streams that work or began to wait a moment ago.
        """
        if self._open >= self.limits.streams and not self._make_room(now):
            raise Overloaded(
                f"{self._open} streams are open, and {self.limits.streams} may be; try again later", _RETRY_AFTER
            )
        self._open += 1
        place = Place(give_up)
        self.waits(place, now, silent=True)
        return place

    def works(self, place: Place) -> None:
        """Its client sent something."""
        self._silent.pop(place, None)
        self._idle.pop(place, None)

    def waits(self, place: Place, now: float, *, silent: bool = False) -> None:
        """It has nothing to do until its client sends something. `silent`: no frame was ever sent, or will be."""
        self.works(place)
        place.waits_since = now
        (self._silent if silent else self._idle)[place] = None

    def leave(self, place: Place) -> None:
        self.works(place)
        if not place.is_lost:
            self._open -= 1

    @contextmanager
    def holding(self, n_bytes: int) -> Iterator[None]:
        """Counts bytes for as long as the context lasts.

        Raises:
            Overloaded: there are too many already. Refused and not kept waiting: whoever waits holds them too.
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
    """What a stream gets whose place another one has taken."""
    return Overloaded("the stream was idle while others came for its place; open another one later", _RETRY_AFTER)
