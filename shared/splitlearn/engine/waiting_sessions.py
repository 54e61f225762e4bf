"""The sessions that wait for admission, and whose turn it is. Plain values.

Owners take turns, so that one with many waiting sessions does not hold up another with few. Turns nest: first among
the outermost names, then among the names inside the one whose turn it is. Of one owner the session that was opened
first comes first. Sessions that were admitted before, and lost their pages, come before all others: somebody has read
the beginning of their answers.
"""

from bisect import bisect_left, insort
from collections.abc import Mapping
from dataclasses import dataclass, field

from splitlearn.engine.owners import Owner, branches


@dataclass
class _Branch:
    """New sessions of one owner, or of all whose names begin alike.

    Attributes:
        last_turn: how many turns there had been when it last was the branch's, or its first session came to wait.
        n_sessions: how many wait.
    """

    last_turn: int
    n_sessions: int = 0


@dataclass
class WaitingSessions:
    """Sorted numbers of sessions: adding and removing one takes microseconds among thousands."""

    _owners: dict[int, Owner] = field(default_factory=dict)
    _returning: list[int] = field(default_factory=list)
    _new: dict[Owner, list[int]] = field(default_factory=dict)
    # the branches right inside each branch, and the outermost ones inside ()
    _inside: dict[Owner, dict[Owner, _Branch]] = field(default_factory=dict)
    _n_turns: int = 0

    def __len__(self) -> int:
        return len(self._owners)

    def __contains__(self, session: int) -> bool:
        return session in self._owners

    @property
    def has_several_owners(self) -> bool:
        """Whether sessions of several owners take turns."""
        return len(self._new) > 1

    def add(self, session: int, owner: Owner, *, is_returning: bool) -> bool:
        """Adds a session that is not in it.

        Args:
            is_returning: it was admitted before.

        Returns:
            Whether it is the first of its line, so that it may be its turn.
        """
        self._owners[session] = owner
        if not is_returning:
            for branch in branches(owner):
                siblings = self._inside.setdefault(branch[:-1], {})
                siblings.setdefault(branch, _Branch(self._n_turns)).n_sessions += 1
        line = self._returning if is_returning else self._new.setdefault(owner, [])
        insort(line, session)
        return line[0] == session

    def discard(self, session: int) -> bool:
        """Removes a session, if it is in it. Returns whether it was the first of its line."""
        owner = self._owners.get(session)
        if owner is None:
            return False
        line = self._line(session, owner)
        del self._owners[session]
        was_first = line[0] == session
        line.pop(bisect_left(line, session))
        if line is not self._returning:
            self._leave(owner)
        return was_first

    def take(self, session: int) -> None:
        """Removes a session, if it is in it, because it is admitted: its owner has had its turn."""
        self._n_turns += 1
        for branch in branches(self._owners.get(session, ())):
            siblings = self._inside.get(branch[:-1], {})
            if branch in siblings:
                siblings[branch].last_turn = self._n_turns
        self.discard(session)

    def oldest(self) -> int | None:
        """The session that was opened first; None if none waits."""
        firsts = [*self._returning[:1], *(new[0] for new in self._new.values())]
        return min(firsts, default=None)

    def next(self, used: Mapping[Owner, int]) -> int | None:
        """The session whose turn it is: at each level of the branch that uses least, or of those the one whose turn is
        longest ago.

        Args:
            used: what the admitted sessions of each branch use; a branch that is not in it uses nothing.
        """
        if self._returning:
            return self._returning[0]
        branch: Owner = ()
        while siblings := self._inside.get(branch):
            turns = {each: (used.get(each, 0), of.last_turn) for each, of in siblings.items()}
            branch = min(turns, key=turns.__getitem__)
        return self._new[branch][0] if self._new else None

    def n_ahead(self, owner: Owner, running: Mapping[Owner, int], session: int) -> int:
        """How many sessions are likely to be admitted before one of the owner.

        Args:
            running: the number of admitted sessions of each branch.
            session: it waits or is opened now.
        """
        if session in self._owners and self._line(session, owner) is self._returning:
            return bisect_left(self._returning, session)
        n_ahead = bisect_left(self._new.get(owner, []), session)
        for own in reversed(list(branches(owner))):
            # by its turn its own branch has so many, and each of the others as many or more
            has = running.get(own, 0) + n_ahead + 1
            for other, waits in self._inside.get(own[:-1], {}).items():
                if other != own:
                    n_ahead += min(waits.n_sessions, max(0, has - running.get(other, 0)))
        return n_ahead + len(self._returning)

    def to_displace(self, owner: Owner) -> int | None:
        """The session that must leave for one of the owner that has come to wait: the last one of the owner with most,
        in the branch with most.

        None if at no level another branch has more waiting sessions than the owner's own.
        """
        for own in branches(owner):
            siblings = self._inside[own[:-1]]
            longest = max(siblings, key=lambda each: siblings[each].n_sessions)
            if siblings[longest].n_sessions > siblings[own].n_sessions:
                while inside := self._inside.get(longest):
                    longest = max(inside, key=lambda each: inside[each].n_sessions)
                return self._new[longest][-1]
        return None

    def _leave(self, owner: Owner) -> None:
        """One new session of the owner waits no more; nothing is kept of branches where none waits."""
        if not self._new[owner]:
            del self._new[owner]
        for branch in branches(owner):
            siblings = self._inside[branch[:-1]]
            siblings[branch].n_sessions -= 1
            if not siblings[branch].n_sessions:
                del siblings[branch]
            if not siblings:
                del self._inside[branch[:-1]]

    def _line(self, session: int, owner: Owner) -> list[int]:
        """The line that the session waits in."""
        place = bisect_left(self._returning, session)
        is_returning = place < len(self._returning) and self._returning[place] == session
        return self._returning if is_returning else self._new[owner]
