"""The sessions that wait for admission, and whose turn it is. Plain values.

Tenants take turns, so that one with many waiting sessions does not hold up another with few. Within a tenant the
session that was opened first comes first. Sessions that were admitted before, and lost their pages, come before all
others: somebody has read the beginning of their answers.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass
class WaitingSessions:
    """Sorted numbers of sessions: adding and removing one takes microseconds among thousands."""

    _tenants: dict[int, str] = field(default_factory=dict)
    _returning: list[int] = field(default_factory=list)
    _new: dict[str, list[int]] = field(default_factory=dict)
    # how many turns there had been when it last was the tenant's, or its first session came to wait
    _last_turn: dict[str, int] = field(default_factory=dict)
    _n_turns: int = 0

    def __len__(self) -> int:
        return len(self._tenants)

    def __contains__(self, session: int) -> bool:
        return session in self._tenants

    @property
    def has_several_tenants(self) -> bool:
        """Whether sessions of several tenants take turns."""
        return len(self._new) > 1

    def add(self, session: int, tenant: str, *, is_returning: bool) -> bool:
        """Adds a session that is not in it.

        Args:
            is_returning: it was admitted before.

        Returns:
            Whether it is the first of its line, so that it may be its turn.
        """
        self._tenants[session] = tenant
        if not is_returning:
            self._last_turn.setdefault(tenant, self._n_turns)
        line = self._returning if is_returning else self._new.setdefault(tenant, [])
        insort(line, session)
        return line[0] == session

    def discard(self, session: int) -> bool:
        """Removes a session, if it is in it. Returns whether it was the first of its line."""
        tenant = self._tenants.pop(session, None)
        if tenant is None:
            return False
        line = self._line(session, tenant)
        was_first = line[0] == session
        line.pop(bisect_left(line, session))
        if not self._new.get(tenant, True):
            del self._new[tenant], self._last_turn[tenant]
        return was_first

    def take(self, session: int) -> None:
        """Removes a session, if it is in it, because it is admitted: its tenant has had its turn."""
        self._n_turns += 1
        tenant = self._tenants.get(session)
        if tenant in self._last_turn:
            self._last_turn[tenant] = self._n_turns
        self.discard(session)

    def oldest(self) -> int | None:
        """The session that was opened first; None if none waits."""
        firsts = [*self._returning[:1], *(new[0] for new in self._new.values())]
        return min(firsts, default=None)

    def next(self, used: Mapping[str, int]) -> int | None:
        """The session whose turn it is: of the tenant that uses least, or of those the one whose turn is longest ago.

        Args:
            used: what the admitted sessions of each tenant use; a tenant that is not in it uses nothing.
        """
        if self._returning:
            return self._returning[0]
        turns = ((used.get(tenant, 0), self._last_turn[tenant], new[0]) for tenant, new in self._new.items())
        return min(turns, default=(0, 0, None))[2]

    def n_ahead(self, tenant: str, running: Mapping[str, int], session: int | None = None) -> int:
        """How many sessions are likely to be admitted before one of the tenant.

        Args:
            running: the number of admitted sessions of each tenant.
            session: one that waits or is opened now; None for one that comes after all others.
        """
        if session in self._tenants and self._line(session, tenant) is self._returning:
            return bisect_left(self._returning, session)
        own = self._new.get(tenant, [])
        n_ahead = len(own) if session is None else bisect_left(own, session)
        has = running.get(tenant, 0) + n_ahead
        for other, new in self._new.items():
            if other != tenant:
                n_ahead += min(len(new), max(0, has + 1 - running.get(other, 0)))
        return n_ahead + len(self._returning)

    def to_displace(self, tenant: str) -> int | None:
        """The session that must leave if one more of the tenant is to wait: the last one of the tenant with most.

        None if no tenant has more waiting sessions than this one would have.
        """
        longest = max(self._new.values(), key=len, default=[])
        return longest[-1] if len(longest) > len(self._new.get(tenant, [])) + 1 else None

    def _line(self, session: int, tenant: str) -> list[int]:
        """The line that the session waits in."""
        place = bisect_left(self._returning, session)
        is_returning = place < len(self._returning) and self._returning[place] == session
        return self._returning if is_returning else self._new[tenant]
