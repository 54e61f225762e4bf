"""Whether a session that comes now would wait too long, and when one that is refused should come again. Plain numbers.

It is asked when a session is opened, before anybody has computed its rows. Beside those that wait it counts the
sessions of the same owner that were opened and have sent no rows yet, and those who were refused and told to come again
before its turn would come, in proportion to how many such have come of late. Who comes when it was told to is let in
before those.
"""

from dataclasses import dataclass, field

from splitlearn.engine.admission import Admission
from splitlearn.engine.appointments import Appointments
from splitlearn.engine.expected_sessions import ExpectedSessions
from splitlearn.engine.limits import Limits
from splitlearn.engine.owners import Owner
from splitlearn.engine.queue_time import QueueTimeEstimator

_SHORTEST_RETRY, _LONGEST_RETRY = 1.0, 300.0
_ANNOUNCED_SECONDS = 1.0
"""How long a session without rows counts as one that will have some. Longer would help a crowd of busy clients, and
whoever opens sessions and sends nothing would keep others out for longer."""
_MARGIN = 1.5
"""How much longer than expected a wait may become before it is too long. A session that is let in and then refused
after all has waited for nothing."""


@dataclass(frozen=True)
class Newcomer:
    """A session that is opened now, or that waits.

    Attributes:
        number: tells which sessions are older.
        max_length: rows that it may ever hold.
        owner: whose session it is.
        was_told: it was refused before, and comes when it was told to.
    """

    number: int
    max_length: int
    owner: Owner
    was_told: bool = False


@dataclass
class QueueForecast:
    """Times are passed in, on one clock, in seconds.

    Attributes:
        admission: the sessions that are admitted, and those that wait.
        times: how long admitted sessions stay.
    """

    limits: Limits
    admission: Admission
    times: QueueTimeEstimator = field(default_factory=QueueTimeEstimator)
    _announced: ExpectedSessions = field(default_factory=ExpectedSessions)
    _appointments: Appointments = field(default_factory=Appointments)

    def was_told(self, owner: Owner, now: float) -> bool:
        """Must be called once when a session comes: whether it was told to come now."""
        return self._appointments.keep(owner, now)

    def why_refused(self, session: Newcomer, now: float) -> str | None:
        """Why the session is refused when it is opened; None if it may come."""
        n_ahead = self._n_ahead(session) + self._n_announced(session, now)
        if not n_ahead:
            return None
        n_free, most = self._n_free(session), self.limits.max_waiting
        if n_ahead - n_free >= max(1, most):
            return f"{n_ahead - n_free} sessions wait for {self.admission.shortage} already"
        if n_ahead >= n_free and not session.was_told:
            # otherwise whoever comes by chance would take the places of those who do as they were told
            by_then = now + self.times.seconds(n_ahead, now, n_free)
            n_ahead += self._appointments.count(session.owner, now, by_then)
        return self._why_too_long(n_ahead, now, n_free)

    def why_not_wait(self, session: Newcomer, now: float) -> str | None:
        """Why a session that has come to wait is refused; None if it may wait."""
        return self._why_too_long(self._n_ahead(session), now, self.admission.n_giving_way(session.owner))

    def announced(self, session: Newcomer, now: float) -> None:
        """The session was opened and has no rows yet."""
        self._announced.add(session.number, session.owner, now + _ANNOUNCED_SECONDS)

    def came(self, number: int) -> None:
        """A session that may have been announced has sent rows, or ended."""
        self._announced.discard(number)

    def retry_after(self, session: Newcomer, now: float, *, is_counted: bool = True) -> float:
        """Seconds after which a refused session should come again: when those are served that come before it.

        Args:
            is_counted: it is expected to come again here, and those who are refused later are to come after it.
        """
        # who came in time comes before those who were told to come later
        told = self._appointments.count(session.owner, now, now if session.was_told else None)
        n_expected = self._n_announced(session, now) + told
        seconds = self.times.seconds(self._n_ahead(session) + n_expected, now, self._n_free(session))
        seconds = min(max(_SHORTEST_RETRY, seconds), _LONGEST_RETRY)
        # who is told the longest time comes before its turn: nothing is kept for it
        if is_counted and seconds < _LONGEST_RETRY:
            self._appointments.make(session.owner, now + seconds, now)
        return seconds

    def _why_too_long(self, n_ahead: int, now: float, n_free: int = 0) -> str | None:
        longest = self.limits.queue_timeout
        if longest is None or not self.times.is_known:
            return None
        if _MARGIN * self.times.seconds(n_ahead, now, n_free) <= longest:
            return None
        return f"{self.admission.shortage} may not be free within {longest:g} s"

    def _n_ahead(self, session: Newcomer) -> int:
        return self.admission.n_ahead(session.owner, session.number)

    def _n_announced(self, session: Newcomer, now: float) -> int:
        return self._announced.count(session.owner, now, session.number)

    def _n_free(self, session: Newcomer) -> int:
        """Places for sessions like this one that nobody waits for, and those of idle ones that make way for it."""
        n_fitting = 0 if self.admission.waiting else self.admission.n_fitting(session.max_length)
        return n_fitting + self.admission.n_giving_way(session.owner)
