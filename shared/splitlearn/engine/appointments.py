"""Sessions that were refused, and told when to come again. Plain numbers; times in seconds, on one clock."""

from bisect import bisect_right, insort
from dataclasses import dataclass, field

from splitlearn.engine.owners import Owner

_LATENESS_SECONDS = 3.0
"""How late a session may come; later its place is no longer kept."""
_MOST = 4096
"""Of more than this many nobody is told anything useful; they are not counted."""


@dataclass
class Appointments:
    """Counted by owner. Which session comes is not known, so whichever of an owner's comes in time is taken for the one
    that was told so.
    """

    _due: dict[Owner, list[float]] = field(default_factory=dict)
    _n: int = 0

    def make(self, owner: Owner, due: float) -> None:
        """A session was told to come at `due`."""
        if self._n < _MOST:
            insort(self._due.setdefault(owner, []), due)
            self._n += 1

    def keep(self, owner: Owner, now: float) -> bool:
        """A session comes: whether it was told to come now. Its appointment is over then."""
        own = self._of(owner, now)
        if not own or own[0] > now:
            return False
        self._drop(owner, 1)
        return True

    def count(self, owner: Owner, now: float, until: float | None = None) -> int:
        """How many of the owner's sessions may still come; with `until` only those that were told to come by then."""
        own = self._of(owner, now)
        return len(own) if until is None else bisect_right(own, until)

    def _of(self, owner: Owner, now: float) -> list[float]:
        """Without those whose time is over."""
        self._drop(owner, bisect_right(self._due.get(owner, []), now - _LATENESS_SECONDS))
        return self._due.get(owner, [])

    def _drop(self, owner: Owner, n: int) -> None:
        if n:
            self._n -= n
            del self._due[owner][:n]
            if not self._due[owner]:
                del self._due[owner]
