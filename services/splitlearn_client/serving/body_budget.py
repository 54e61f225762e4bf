"""The bytes that all request bodies together may take, and which upload is dropped when they run short.

No clock and no waiting: the caller gives the time.
"""

from dataclasses import dataclass
from typing import Final

# Bytes of each body that are not counted, so that short requests pass even while long bodies fill the budget.
_FREE: Final = 2**16
CHUNK: Final = 2**16
"""An upload makes progress with every chunk of this many bytes."""


@dataclass(eq=False)
class BodyShare:
    """One request's share of the budget.

    Attributes:
        since: when the last chunk of its body was complete; before the first, when the body began.
        received: bytes of its body so far.
        held: bytes that are counted.
        uploading: its body is incomplete.
        waiting: it waits for budget, and its sender is not read.
        dropped: the upload was dropped, and nothing of it is counted any more.
    """

    since: float
    received: int = 0
    held: int = 0
    uploading: bool = True
    waiting: bool = False
    dropped: bool = False
    _complete: int = 0

    def add(self, n_bytes: int, now: float) -> None:
        """Counts received bytes."""
        self.received += n_bytes
        if self.received - self._complete >= CHUNK:
            self.since, self._complete = now, self.received

    def resume(self, now: float) -> None:
        """Ends a wait."""
        self.since, self._complete, self.waiting = now, self.received, False


class BodyBudget:
    """The shares of all requests.

    Args:
        limit: bytes that all bodies together may take.
        stall_seconds: an upload without progress for this long may be dropped for others.
    """

    def __init__(self, limit: int, stall_seconds: float) -> None:
        self._limit = limit
        self._stall_seconds = stall_seconds
        self._held = 0
        self._shares: set[BodyShare] = set()

    def enter(self, now: float) -> BodyShare:
        share = BodyShare(now)
        self._shares.add(share)
        return share

    def leave(self, share: BodyShare) -> None:
        self._shares.discard(share)
        self._held -= share.held
        share.held = 0

    def take(self, share: BodyShare) -> bool:
        """Whether all received bytes of this share could be counted."""
        more = share.received - _FREE - share.held
        if more > 0:
            if self._held + more > self._limit:
                return False
            self._held += more
            share.held += more
        return True

    def drop_slowest(self, asking: BodyShare, now: float) -> BodyShare | None:
        """Drops an upload for the first in the queue, and returns it; it may be that one itself. None: it should wait.

        The slowest upload is dropped once it has stalled for too long, or once all uploads wait, so that none can
        proceed. Budget that is held by complete bodies comes back only when those requests are answered.
        """
        others = [share for share in self._shares if share.uploading and share.held and share is not asking]
        slowest = min(others, key=lambda share: share.since, default=asking)
        if now - slowest.since < self._stall_seconds and not all(share.waiting for share in others):
            return None
        if slowest.since > asking.since and now - slowest.since < self._stall_seconds:
            slowest = asking
        slowest.dropped = True
        self.leave(slowest)
        return slowest
