"""How long a session will wait for admission, from how long admitted ones stay. Plain numbers; times in seconds."""

from bisect import bisect_right
from collections import deque
from dataclasses import dataclass, field

_REMEMBERED = 64


@dataclass
class QueueTimeEstimator:
    """Learns how long sessions stay admitted. Each that leaves makes room for one that waits.

    Times are passed in, on one clock.
    """

    _admitted_at: dict[int, float] = field(default_factory=dict)
    _stays: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def is_known(self) -> bool:
        """Whether any session has ended; without one an estimate is too weak to refuse anybody for it."""
        return bool(self._stays)

    def admitted(self, session: int, now: float) -> None:
        self._admitted_at[session] = now

    def ended(self, session: int, now: float) -> None:
        """An admitted session ended; does nothing for one that is not admitted."""
        since = self._admitted_at.pop(session, None)
        if since is not None:
            self._stays.append(now - since)

    def preempted(self, session: int) -> None:
        """The session lost its place, and how long it would have stayed is not known."""
        self._admitted_at.pop(session, None)

    def seconds(self, n_ahead: int, now: float) -> float:
        """Seconds until a session is admitted that has `n_ahead` others before it; 0 if nothing is known.

        Before any session has ended, those that are admitted are expected to stay for twice as long as until now.
        """
        ages = sorted((now - since for since in self._admitted_at.values()), reverse=True)
        if not ages:
            return 0.0
        stays = sorted(self._stays)
        mean = sum(stays) / len(stays) if stays else 2 * ages[0]
        # the places become free one after the other, and each again after another stay
        left = sorted(_left(stays, age) for age in ages)
        rounds, place = divmod(n_ahead, len(left))
        return left[place] + rounds * mean


def _left(stays: list[float], age: float) -> float:
    """How much longer a session stays, as those did that stayed longer than `age`; as long again if none did."""
    longer = stays[bisect_right(stays, age) :]
    return sum(longer) / len(longer) - age if longer else age
