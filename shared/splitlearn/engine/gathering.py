"""How long a step should wait for sessions that are about to send their next rows. Plain numbers.

A step of few rows takes nearly as long as one of many, because it reads all the weights. Sessions whose rows ran
together come back at nearly the same time, but the first of them a little earlier: without waiting they fall apart
into groups, each of which costs a step of its own.
"""

from dataclasses import dataclass, field

_LATE = 1.25
"""A session that is away for so many times its usual time is not waited for."""
_MEMORY = 0.3


@dataclass
class Gathering:
    """Learns how long sessions stay away between two steps. Times are in seconds, on one clock."""

    _left: dict[int, float] = field(default_factory=dict)
    _usual: dict[int, float] = field(default_factory=dict)

    def went(self, session: int, now: float) -> None:
        """The session has got what it waited for, and is expected to come back with one more row."""
        self._left[session] = now

    def came(self, session: int, now: float) -> None:
        """The session has rows to run."""
        left = self._left.pop(session, None)
        if left is not None:
            before = self._usual.get(session, now - left)
            self._usual[session] = (1 - _MEMORY) * before + _MEMORY * (now - left)

    def forget(self, session: int) -> None:
        """The session has ended, or is not expected any more."""
        self._left.pop(session, None)
        self._usual.pop(session, None)

    def n_away(self, now: float, longest: float) -> int:
        """How many of those who went less than `longest` seconds ago have not come back."""
        return sum(now - left < longest for left in self._left.values())

    def next_due(self, now: float) -> float | None:
        """Seconds until the first of those who are away usually comes back; None if nobody is known to."""
        due = [left + self._usual[session] for session, left in self._left.items() if session in self._usual]
        return max(0.0, min(due) - now) if due else None

    def wait(self, now: float, n_ready: int, step_seconds: float) -> float:
        """Seconds to wait for more sessions; 0 to begin.

        Waiting for the k sessions that come next makes `n_ready` sessions wait, and spares those k most of a step. It
        pays as long as the time lost by the first is less than what the others gain.
        """
        due = sorted(
            left + usual
            for session, left in self._left.items()
            if (usual := self._usual.get(session)) is not None and now < left + usual * _LATE
        )
        best = 0.0
        for k, at in enumerate(due, start=1):
            seconds = max(0.0, at - now)
            if n_ready * seconds <= k * step_seconds:
                # a little longer than expected: half of them come later
                best = seconds + (_LATE - 1) * step_seconds
        return best
