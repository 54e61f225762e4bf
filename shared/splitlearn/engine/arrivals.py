"""Which sessions have an output and have not sent their next row, and when it is expected. Plain numbers."""

from dataclasses import dataclass, field

_GIVE_UP_FACTOR = 2.0
"""A session is not expected any more when it has been away this many times as long as usual."""
_SMOOTHING = 0.3


@dataclass(eq=False)
class ArrivalEstimator:
    """Learns how long each session takes from its output to its next row. Times are in seconds, on one clock."""

    _sent_at: dict[int, float] = field(default_factory=dict)
    _usual: dict[int, float] = field(default_factory=dict)
    # how long the last session that came back was away, divided by its usual time
    _last_ratio: float = 1.0

    def on_sent(self, session: int, now: float) -> None:
        """The session's output was sent; one more row is expected from it."""
        self._sent_at[session] = now

    def on_received(self, session: int, now: float) -> None:
        """The session's next rows have arrived."""
        sent_at = self._sent_at.pop(session, None)
        if sent_at is not None:
            away = now - sent_at
            before = self._usual.get(session, away)
            self._usual[session] = (1 - _SMOOTHING) * before + _SMOOTHING * away
            self._last_ratio = away / before if before else 1.0

    def forget(self, session: int) -> None:
        """The session has ended, or no row is expected from it any more."""
        self._sent_at.pop(session, None)
        self._usual.pop(session, None)

    def n_outstanding(self, now: float, longest: float) -> int:
        """The number of sessions whose output was sent less than `longest` seconds ago and that have not answered."""
        return sum(now - sent_at < longest for sent_at in self._sent_at.values())

    def next_due(self, now: float) -> float | None:
        """Seconds until the first outstanding session is expected, or if it is late until it is given up.

        None if no session is expected.
        """
        seconds = []
        for session, sent_at in self._sent_at.items():
            usual = self._usual.get(session)
            if usual is not None and now < sent_at + usual * _GIVE_UP_FACTOR:
                due = sent_at + usual
                seconds.append((due if now < due else sent_at + usual * _GIVE_UP_FACTOR) - now)
        return min(seconds, default=None)

    def wait(self, now: float, latest: float) -> float:
        """Seconds until every session that is due before `latest` has arrived or is given up; 0 if none is due.

        Sessions of one step are delayed by the same things: if the last one that arrived took twice its usual time,
        the others are expected to take twice theirs.
        """
        until = [
            sent_at + usual * self._last_ratio * _GIVE_UP_FACTOR
            for session, sent_at in self._sent_at.items()
            if (usual := self._usual.get(session)) is not None and sent_at + usual * self._last_ratio <= latest
        ]
        return max(0.0, min(latest, max(until, default=now)) - now)
