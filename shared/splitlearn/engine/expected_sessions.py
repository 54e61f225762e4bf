"""Sessions that are not there yet but will be, each until some time. Plain numbers; times in seconds, on one clock."""

from bisect import bisect_left, insort
from dataclasses import dataclass, field
from heapq import heappop, heappush

_MOST = 4096
"""Of more than this many nobody is told anything useful; they are not counted."""


@dataclass
class ExpectedSessions:
    """Counted by tenant, so that nobody waits for what another tenant has only announced."""

    _tenants: dict[int, str] = field(default_factory=dict)
    # the sessions of each tenant, sorted
    _sessions: dict[str, list[int]] = field(default_factory=dict)
    # those that were discarded stay in it until their time
    _ends: list[tuple[float, int]] = field(default_factory=list)

    def add(self, session: int, tenant: str, until: float) -> None:
        """Expects a session that is not expected yet, until then at most."""
        if len(self._ends) < _MOST:
            self._tenants[session] = tenant
            insort(self._sessions.setdefault(tenant, []), session)
            heappush(self._ends, (until, session))

    def discard(self, session: int) -> None:
        """It has come, or will not come; does nothing if it is not expected."""
        tenant = self._tenants.pop(session, None)
        if tenant is None:
            return
        own = self._sessions[tenant]
        own.pop(bisect_left(own, session))
        if not own:
            del self._sessions[tenant]

    def count(self, tenant: str, now: float, before: int | None = None) -> int:
        """How many of the tenant's sessions are expected; with `before` only those of smaller numbers."""
        while self._ends and self._ends[0][0] <= now:
            self.discard(heappop(self._ends)[1])
        own = self._sessions.get(tenant, [])
        return len(own) if before is None else bisect_left(own, before)
