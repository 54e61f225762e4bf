"""Who is away between two steps, and when they are expected. Plain numbers."""

from dataclasses import dataclass, field

_LATE = 2.0
"""A session that is away for so many times its usual time is not waited for any more."""
_MEMORY = 0.3


@dataclass(eq=False)
class Gathering:
    """Learns how long sessions stay away between two steps. Times are in seconds, on one clock."""

    _left: dict[int, float] = field(default_factory=dict)
    _usual: dict[int, float] = field(default_factory=dict)
    # how long the last one who came was away, as a share of what is usual for it
    _lately: float = 1.0

    def went(self, session: int, now: float) -> None:
        """The session has got what it waited for, and is expected to come back with one more row."""
        self._left[session] = now

    def came(self, session: int, now: float) -> None:
        """The session has rows to run."""
        left = self._left.pop(session, None)
        if left is not None:
            away = now - left
            before = self._usual.get(session, away)
            self._usual[session] = (1 - _MEMORY) * before + _MEMORY * away
            self._lately = away / before if before else 1.0

    def forget(self, session: int) -> None:
        """The session has ended, or is not expected any more."""
        self._left.pop(session, None)
        self._usual.pop(session, None)

    def n_away(self, now: float, longest: float) -> int:
        """How many of those who went less than `longest` seconds ago have not come back."""
        return sum(now - left < longest for left in self._left.values())

    def next_due(self, now: float) -> float | None:
        """Seconds until the first of those who are away comes, or is not waited for any more; None if nobody is due."""
        seconds = []
        for session, left in self._left.items():
            usual = self._usual.get(session)
            if usual is not None and now < left + usual * _LATE:
                seconds.append((left + usual if now < left + usual else left + usual * _LATE) - now)
        return min(seconds, default=None)

    def wait(self, now: float, latest: float) -> float:
        """Seconds until all have come who are due before `latest`, or are not waited for any more; 0 if there are none.

        Those who ran together are kept from coming by the same things: if the last one who came was away for twice as
        long as usual, so are the others expected to be.
        """
        until = [
            left + usual * self._lately * _LATE
            for session, left in self._left.items()
            if (usual := self._usual.get(session)) is not None and left + usual * self._lately <= latest
        ]
        return max(0.0, min(latest, max(until, default=now)) - now)
