"""Sessions that were refused, and told when to come again. Plain numbers; times in seconds, on one clock.

Not all come again, and whoever comes at another time is not known as one of them. So they are counted in proportion to
how many came in time of late: a crowd that has left for good does not keep others away for long.
"""

from bisect import bisect_right, insort
from collections import deque
from dataclasses import dataclass, field
from heapq import heappop, heappush

from splitlearn.engine.owners import Owner

_LATENESS_SECONDS = 3.0
"""How late a session may come; later its place is no longer kept."""
_MOST = 4096
"""Of more than this many nobody is told anything useful; they are not counted."""
_REMEMBERED = 64


@dataclass
class _Line:
    """The appointments of one owner.

    Attributes:
        due: of those whose time is not over, sorted.
        came: of those whose time is over, whether a session came.
    """

    due: list[float] = field(default_factory=list)
    came: deque[bool] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))

    @property
    def share(self) -> float:
        """How many of all are likely to come; all of them before anything is known."""
        return (1 + sum(self.came)) / (1 + len(self.came))


@dataclass
class Appointments:
    """Counted by owner. Which session comes is not known, so whichever of an owner's comes in time is taken for the one
    that was told so.
    """

    # nothing is kept of an owner without appointments
    _lines: dict[Owner, _Line] = field(default_factory=dict)
    # those that were kept stay in it until their time is over
    _ends: list[tuple[float, Owner]] = field(default_factory=list)

    def make(self, owner: Owner, due: float, now: float) -> None:
        """A session was told to come at `due`."""
        self._expire(now)
        if len(self._ends) < _MOST:
            insort(self._lines.setdefault(owner, _Line()).due, due)
            heappush(self._ends, (due, owner))

    def keep(self, owner: Owner, now: float) -> bool:
        """A session comes: whether it was told to come now. Its appointment is over then."""
        self._expire(now)
        line = self._lines.get(owner)
        if line is None or line.due[0] > now:
            return False
        self._end(owner, 1, came=True)
        return True

    def count(self, owner: Owner, now: float, until: float | None = None) -> int:
        """How many of the owner's sessions are likely to come yet; with `until` only those that were told to come by
        then."""
        self._expire(now)
        line = self._lines.get(owner)
        if line is None:
            return 0
        n = len(line.due) if until is None else bisect_right(line.due, until)
        return round(n * line.share)

    def _expire(self, now: float) -> None:
        """Drops those of all owners whose time is over."""
        over = now - _LATENESS_SECONDS
        while self._ends and self._ends[0][0] <= over:
            _, owner = heappop(self._ends)
            if owner in self._lines:
                self._end(owner, bisect_right(self._lines[owner].due, over), came=False)

    def _end(self, owner: Owner, n: int, *, came: bool) -> None:
        """The owner's first `n` are over."""
        line = self._lines[owner]
        del line.due[:n]
        line.came.extend([came] * n)
        if not line.due:
            del self._lines[owner]
