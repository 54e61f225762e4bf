"""Which sessions are admitted, and which wait. Plain integers.

A session is admitted if the memory holds what it and the admitted ones are expected to become, so that few have to be
preempted later. Which waiting session comes next says `WaitingSessions`; nothing overtakes it, so it is not starved by
smaller ones.

Sessions that have nothing to do keep their seats and pages as long as nobody waits for them. The session whose turn it
is takes the places of those that have been idle for long (see `giving_way`).

Where bottom, trunk and top are separate engines, a session may wait in one while it holds pages in another. No two may
wait for each other so for ever. Therefore the session that was opened first of all that wait takes the places of
younger ones sooner, whoever's turn it is and whoever has more. If all engines open sessions in the same order, then of
all sessions that wait in any engine the oldest one always comes to run.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from splitlearn.engine.giving_way import AWAY_SECONDS, Admitted, giving_way
from splitlearn.engine.lengths import LengthEstimator
from splitlearn.engine.limits import Limits
from splitlearn.engine.memory_forecast import Growth, peak_pages
from splitlearn.engine.owners import Owner, by_branch
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.waiting_sessions import WaitingSessions


class Shortage(StrEnum):
    """What those that wait lack. A seat is one of `Limits.max_num_seqs`."""

    SEAT = "a seat"
    MEMORY = "memory"


@dataclass
class _Known:
    """A session that has come and was not removed.

    Attributes:
        max_length: rows that it may ever hold.
        owner: whose session it is.
        n_wanted: rows that it has once its present request has run.
        n_most: the most rows that it has had.
        n_expected: the rows that it was last expected to reach; expected again when it has as many.
        decodes: it has got past its prompt since it was admitted.
        was_admitted: it is or was admitted.
        returns_first: when it waits next, it comes before all that were never admitted. Not so one that lost its place
            because it was idle: otherwise whoever has many of them could keep all others waiting behind them.
    """

    max_length: int
    owner: Owner
    n_wanted: int = 0
    n_most: int = 0
    n_expected: int = 0
    decodes: bool = False
    was_admitted: bool = False
    returns_first: bool = False


@dataclass
class Admission:
    """Admits sessions, reserves their first pages, and keeps those that wait.

    Attributes:
        pages: which session holds how many pages.
        evict_cached: frees at least as many pages of cached prefixes as its argument says, or all; returns how many.
        idle_seconds: for how long an admitted session has had no rows to run; 0 if it has some.
        on_admitted: called with each session that is admitted.
        lengths: how long sessions become.
        running: the admitted sessions.
        waiting: those that are not admitted and have a request.
    """

    limits: Limits
    pages: PageAccounting
    evict_cached: Callable[[int], int]
    idle_seconds: Callable[[int], float]
    on_admitted: Callable[[int], None]
    lengths: LengthEstimator = field(default_factory=LengthEstimator)
    running: dict[int, None] = field(default_factory=dict)
    waiting: WaitingSessions = field(default_factory=WaitingSessions)
    _known: dict[int, _Known] = field(default_factory=dict)
    # false while nothing has changed since the session whose turn it is did not fit
    _may_fit: bool = False

    def admit_cached(self, session: int, max_length: int, owner: Owner, n_rows: int) -> bool:
        """Admits a session that begins with cached rows, unless others wait or it does not fit."""
        known = self._known[session] = _Known(max_length, owner, n_rows, n_rows)
        if self.waiting or not self._admit_if_it_fits(session, known, n_rows):
            del self._known[session]
            return False
        return True

    def submit(self, session: int, max_length: int, owner: Owner, n_rows: int, *, is_decoding: bool) -> None:
        """A session will have `n_rows` rows after its next request; it waits if it is not admitted at once."""
        known = self._known.setdefault(session, _Known(max_length, owner))
        known.n_wanted = n_rows
        known.n_most = max(known.n_most, n_rows)
        if session not in self.running:
            self._may_fit |= self.waiting.add(session, owner, is_returning=known.returns_first)
            self.admit_waiting()
        elif is_decoding and not known.decodes:
            known.decodes = self._may_fit = True

    def was_admitted(self, session: int) -> bool:
        """Whether the session is admitted, or was and has not been removed."""
        return session in self._known and self._known[session].was_admitted

    @property
    def shortage(self) -> Shortage:
        """What has to become free before another session is admitted."""
        return Shortage.SEAT if len(self.running) >= self.limits.max_num_seqs else Shortage.MEMORY

    def n_ahead(self, owner: Owner, session: int) -> int:
        """How many sessions will be admitted before this one of the owner, which waits or is opened now."""
        running = by_branch((self._known[other].owner, 1) for other in self.running)
        return self.waiting.n_ahead(owner, running, session)

    def n_fitting(self, max_length: int) -> int:
        """At least how many more sessions of this length fit beside the admitted ones."""
        free = self.pages.total - sum(self._growth(session).end for session in self.running)
        end = max(1, self.pages.pages_for(self.lengths.expect(max_length, 1)))
        return max(0, min(free // end, self.limits.max_num_seqs - len(self.running)))

    def n_giving_way(self, owner: Owner) -> int:
        """How many admitted sessions make way for those of the owner."""
        return len(self._giving_way(owner))

    def admit_waiting(self) -> None:
        """Admits waiting sessions in their turn as long as there are seats and memory; none overtakes another."""
        while self._may_fit:
            turn = self._turn()
            self._may_fit = turn is not None and self._admit_if_it_fits(turn, self._known[turn])

    def admit_for_idle(self) -> list[int]:
        """Admits waiting sessions in place of idle ones: those whose turn it is, then the oldest.

        Returns:
            The sessions that have to be preempted, in order; their pages are released.
        """
        if not self.waiting or not any(self.idle_seconds(each) >= AWAY_SECONDS for each in self.running):
            return []
        preempted: list[int] = []
        while (turn := self._turn()) is not None:
            gave_way = self._admit_in_place_of(self._giving_way(self._known[turn].owner), turn)
            if not gave_way:
                break
            preempted += gave_way
            # they may have had more than it takes
            self.admit_waiting()
        oldest = self.waiting.oldest()
        if oldest is not None:
            away = (each for each in self.running if each > oldest and self.idle_seconds(each) >= AWAY_SECONDS)
            preempted += self._admit_in_place_of(sorted(away, reverse=True), oldest)
        return preempted

    def drop(self, session: int) -> None:
        """The session has no request any more."""
        self._may_fit |= self.waiting.discard(session)

    def release(self, session: int, *, waits: bool = False, was_idle: bool = False) -> None:
        """Frees the pages of a session; it can be admitted again.

        Args:
            waits: it has a request, and waits from now on.
            was_idle: it is for that that it loses them.
        """
        self.running.pop(session, None)
        self.pages.release(session)
        self._may_fit = True
        known = self._known.get(session)
        if known is not None:
            known.decodes, known.returns_first = False, known.was_admitted and not was_idle
            if waits:
                self.waiting.add(session, known.owner, is_returning=True)

    def remove(self, session: int) -> None:
        """The session has ended."""
        self.drop(session)
        self.release(session)
        known = self._known.pop(session, None)
        if known is not None and known.was_admitted:
            self.lengths.learn(known.max_length, known.n_most)

    def _turn(self) -> int | None:
        return self.waiting.next(self._use_by_branch() if self.waiting.has_several_owners else {})

    def _giving_way(self, owner: Owner) -> list[int]:
        """The admitted sessions that make way for those of the owner, in order."""
        idle = {session: self.idle_seconds(session) for session in self.running}
        if not any(idle.values()):
            return []
        is_seat = self.shortage is Shortage.SEAT
        admitted = {
            each: Admitted(self._known[each].owner, 1 if is_seat else self._growth(each).end, seconds)
            for each, seconds in idle.items()
        }
        return list(giving_way(owner, admitted))

    def _admit_in_place_of(self, idle: Sequence[int], session: int) -> list[int]:
        """Admits a session in place of as many of the idle ones as it takes, the first ones first.

        Returns:
            Those that have to be preempted; none if all are not enough.
        """
        known, preempted = self._known[session], list[int]()
        if not idle or not self._fits(session, known, without=frozenset(idle)):
            return preempted
        for victim in idle:
            self.release(victim, was_idle=True)
            preempted.append(victim)
            if self._admit_if_it_fits(session, known):
                break
        return preempted

    def _admit_if_it_fits(self, session: int, known: _Known, n_rows: int | None = None) -> bool:
        """Reserves the pages of its first rows at once, so that the sessions behind it cannot count on them."""
        n_rows = self._first_rows(known) if n_rows is None else n_rows
        if not self._fits(session, known):
            return False
        missing = self.pages.missing(session, n_rows)
        if missing and self.evict_cached(missing) < missing:
            return False
        self.pages.reserve(session, n_rows)
        self.waiting.take(session)
        self.running[session] = None
        known.was_admitted = known.returns_first = True
        self.on_admitted(session)
        return True

    def _fits(self, session: int, known: _Known, without: frozenset[int] = frozenset()) -> bool:
        """Whether the memory holds what the session and the admitted ones become.

        Args:
            without: sessions that are not counted.
        """
        others = [other for other in self.running if other not in without]
        if len(others) >= self.limits.max_num_seqs:
            return False
        first = self.pages.pages_for(self._first_rows(known))
        held = sum(self.pages.held_by(other) for other in others)
        if held + first > self.pages.total:
            return False
        known.n_expected = self.lengths.expect(known.max_length, known.n_most)
        end = max(first, self.pages.pages_for(known.n_expected))
        growths = [Growth(0, end, decodes=False), *map(self._growth, others)]
        return not others or peak_pages(growths) <= self.pages.total

    def _use_by_branch(self) -> Mapping[Owner, int]:
        """The share that the admitted sessions of each branch have of the seats, or of the pages with those that they
        are expected to hold before they end, whichever is more (Ghodsi et al.: Dominant Resource Fairness, NSDI 2011).

        In units of one seat's share of one page.
        """
        seats = by_branch((self._known[session].owner, 1) for session in self.running)
        pages = by_branch((self._known[session].owner, self._growth(session).end) for session in self.running)
        total, most = self.pages.total, self.limits.max_num_seqs
        return {branch: max(seats[branch] * total, pages[branch] * most) for branch in seats}

    def _first_rows(self, known: _Known) -> int:
        return min(known.n_wanted + self.limits.headroom, known.max_length)

    def _growth(self, session: int) -> Growth:
        """What an admitted session holds and will hold."""
        known, now = self._known[session], self.pages.held_by(session)
        if known.n_most >= known.n_expected:
            known.n_expected = self.lengths.expect(known.max_length, known.n_most)
        return Growth(now, max(now, self.pages.pages_for(known.n_expected)), known.decodes)
