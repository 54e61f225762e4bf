"""Sessions that are not there yet but will be, each until some time. Plain numbers; times in seconds, on one clock."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from heapq import heappop, heappush

from splitlearn.engine.owners import Owner

_MOST = 4096
"""Of more than this many nobody is told anything useful; they are not counted."""


@dataclass
class ExpectedSessions:
    """Counted by owner, so that nobody waits for what another one has only announced."""

    _owners: dict[int, Owner] = field(default_factory=dict)
    # the sessions of each owner, sorted
    _sessions: dict[Owner, list[int]] = field(default_factory=dict)
    # those that were discarded stay in it until their time
    _ends: list[tuple[float, int]] = field(default_factory=list)

    def add(self, session: int, owner: Owner, until: float) -> None:
        """Expects a session that is not expected yet, until then at most."""
        if len(self._ends) < _MOST:
            self._owners[session] = owner
            insort(self._sessions.setdefault(owner, []), session)
            heappush(self._ends, (until, session))

    def discard(self, session: int) -> None:
        """It has come, or will not come; does nothing if it is not expected."""
        owner = self._owners.pop(session, None)
        if owner is None:
            return
        own = self._sessions[owner]
        own.pop(bisect_left(own, session))
        if not own:
            del self._sessions[owner]

    def count(self, owner: Owner, now: float, before: int | None = None) -> int:
        """How many of the owner's sessions are expected; with `before` only those of smaller numbers."""
        while self._ends and self._ends[0][0] <= now:
            self.discard(heappop(self._ends)[1])
        own = self._sessions.get(owner, [])
        return len(own) if before is None else bisect_left(own, before)
