"""The bytes that bodies under way may have together: who has how many, and who gives way where they run short.

No clock and no waiting: the caller says what time it is.
"""

from dataclasses import dataclass
from typing import Final

# Of each body so many bytes are not counted: those who fill all room with long bodies must not shut out everybody.
_FREE: Final = 2**16
PIECE: Final = 2**16
"""An upload stands still while no whole piece of so many bytes comes."""


@dataclass(eq=False)
class Share:
    """What one request has of the room.

    Attributes:
        since: when the last piece of its body was complete; before the first, when it began.
        came: bytes of its body so far.
        held: those that are counted.
        uploading: its body is not whole.
        waiting: it is in line for room, and its sender is not read.
        dropped: it gave way. Nothing of it is counted any more.
    """

    since: float
    came: int = 0
    held: int = 0
    uploading: bool = True
    waiting: bool = False
    dropped: bool = False
    _complete: int = 0

    def add(self, n_bytes: int, now: float) -> None:
        """Notes bytes that have come."""
        self.came += n_bytes
        if self.came - self._complete >= PIECE:
            self.since, self._complete = now, self.came

    def go_on(self, now: float) -> None:
        """Ends a time in which it waited."""
        self.since, self._complete, self.waiting = now, self.came, False


class Room:
    """All shares.

    Args:
        together: bytes that all bodies may have.
        still: seconds without a whole piece after which an upload gives way to others.
    """

    def __init__(self, together: int, still: float) -> None:
        self._together = together
        self._still = still
        self._held = 0
        self._shares: set[Share] = set()

    def enter(self, now: float) -> Share:
        share = Share(now)
        self._shares.add(share)
        return share

    def leave(self, share: Share) -> None:
        self._shares.discard(share)
        self._held -= share.held
        share.held = 0

    def take(self, share: Share) -> bool:
        """Whether all that came of this one could be counted."""
        more = share.came - _FREE - share.held
        if more > 0:
            if self._held + more > self._together:
                return False
            self._held += more
            share.held += more
        return True

    def make_room(self, asking: Share, now: float) -> Share | None:
        """The upload that gives way to the first in line, which may be that one itself; None if it should wait.

        The slowest does, once it has stood still for too long, or once all are in line, where none can go on. If only
        requests that are being answered have room, nothing but answers brings it back.
        """
        others = [share for share in self._shares if share.uploading and share.held and share is not asking]
        slowest = min(others, key=lambda share: share.since, default=asking)
        if now - slowest.since < self._still and not all(share.waiting for share in others):
            return None
        if slowest.since > asking.since and now - slowest.since < self._still:
            slowest = asking
        slowest.dropped = True
        self.leave(slowest)
        return slowest
