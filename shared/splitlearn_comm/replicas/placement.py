"""Which of two replicas gets the next session. Plain numbers."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TypeVar

from splitlearn_comm.load import ServiceLoad

_T = TypeVar("_T")


@dataclass(frozen=True, order=True)
class Pressure:
    """How much a replica has to do; the smaller one gets the session. Fields are compared in this order.

    Attributes:
        waiting: sessions that wait for memory there.
        occupied: the share of its rows that sessions hold, or will hold soon.
        sessions: sessions there.
    """

    waiting: int
    occupied: float
    sessions: int


@dataclass
class LoadEstimate:
    """The load that a replica reported last, what this client has placed there since, and what it has there in all."""

    reported: ServiceLoad = field(default_factory=ServiceLoad)
    _placed_sessions: int = 0
    _placed_rows: int = 0
    _open_rows: int = 0

    def report(self, load: ServiceLoad | None) -> None:
        """A new report, which includes what was placed before."""
        self.reported = load or ServiceLoad()
        self._placed_sessions = self._placed_rows = 0

    def placed(self, n_rows: int) -> None:
        """A session that may grow to this many rows was placed there."""
        self._placed_sessions += 1
        self._placed_rows += n_rows
        self._open_rows += n_rows

    def ended(self, n_rows: int) -> None:
        """A session that was placed there with so many rows has ended."""
        self._open_rows -= n_rows

    @property
    def may_refuse(self) -> bool:
        """Whether another session may have to wait there, so that it may be refused.

        Sessions of this client count with all the rows that they may have: those that it has just opened have none yet.
        """
        reported = self.reported
        return reported.waiting_sessions > 0 or 0 < reported.total_rows <= max(self._taken_rows, self._open_rows)

    @property
    def _taken_rows(self) -> int:
        return self.reported.total_rows - self.reported.free_rows + self._placed_rows

    @property
    def pressure(self) -> Pressure:
        reported = self.reported
        occupied = self._taken_rows / reported.total_rows if reported.total_rows else 0.0
        return Pressure(reported.waiting_sessions, occupied, reported.running_sessions + self._placed_sessions)


def less_loaded(candidates: Sequence[tuple[_T, Pressure]], dice: Random) -> _T:
    """The less loaded of two random candidates, of which there is at least one.

    Two random choices spread almost as well as the best of all, and many clients with the same old reports do not all
    take the same replica (M. Mitzenmacher, The Power of Two Choices in Randomized Load Balancing, 2001).
    """
    two = dice.sample(candidates, min(2, len(candidates)))
    return min(two, key=lambda candidate: candidate[1])[0]
