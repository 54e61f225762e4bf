"""How long a session will wait for admission, from how long admitted ones stay. Plain numbers; times in seconds."""

from bisect import bisect_left
from collections import deque
from dataclasses import dataclass, field
from itertools import accumulate
from operator import neg

_REMEMBERED = 64
_KEPT_SECONDS = 0.1
"""A thousand sessions may come at once: what they have in common is computed once."""


@dataclass
class QueueTimeEstimator:
    """Learns how long sessions stay admitted. Each that leaves makes room for one that waits.

    Times are passed in, on one clock.
    """

    _admitted_at: dict[int, float] = field(default_factory=dict)
    _stays: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))
    # how much longer each admitted session stays, the shortest first, and when that was computed; None if it changed
    _left: tuple[float, list[float]] | None = None

    @property
    def is_known(self) -> bool:
        """Whether any session has ended; without one an estimate is too weak to refuse anybody for it."""
        return bool(self._stays)

    def admitted(self, session: int, now: float) -> None:
        self._admitted_at[session] = now
        self._left = None

    def ended(self, session: int, now: float) -> None:
        """An admitted session ended; does nothing for one that is not admitted."""
        since = self._admitted_at.pop(session, None)
        if since is not None:
            self._stays.append(now - since)
            self._left = None

    def preempted(self, session: int) -> None:
        """The session lost its place, and how long it would have stayed is not known."""
        self._admitted_at.pop(session, None)
        self._left = None

    def seconds(self, n_ahead: int, now: float, n_free: int = 0) -> float:
        """Seconds until a session is admitted that has `n_ahead` others before it; 0 if nothing is known.

        Before any session has ended, those that are admitted are expected to stay for twice as long as until now.

        Args:
            n_free: places that nobody has taken yet.
        """
        n_places = n_free + len(self._admitted_at)
        if n_ahead < n_free or not n_places:
            return 0.0
        if self._left is None or now - self._left[0] > _KEPT_SECONDS:
            self._left = now, self._seconds_left(now)
        left = self._left[1]
        mean = sum(self._stays) / len(self._stays) if self._stays else 2 * left[-1] if left else 0.0
        # the places become free one after the other, and each again after another stay
        rounds, place = divmod(n_ahead, n_places)
        return rounds * mean + (left[place - n_free] if place >= n_free else 0.0)

    def _seconds_left(self, now: float) -> list[float]:
        """How much longer each admitted session stays: as those did that stayed longer than it has until now.

        As long again if none did.
        """
        stays = sorted(self._stays, reverse=True)
        sums = list(accumulate(stays))
        left = []
        for since in self._admitted_at.values():
            n_longer = bisect_left(stays, since - now, key=neg)
            left.append(sums[n_longer - 1] / n_longer - (now - since) if n_longer else now - since)
        return sorted(left)
