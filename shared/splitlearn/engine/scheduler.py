"""Which rows of which sessions run in the next step, and which sessions are preempted.

Plain integers. Sessions are numbered in the order in which they were opened; older sessions are served first. What a
step costs depends on the admitted sessions, never on those that wait. Used on the event loop's thread; `n_waiting` and
`n_running` may be read from any thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import NamedTuple

from splitlearn.engine.admission import Admission, Shortage
from splitlearn.engine.limits import Limits
from splitlearn.engine.owners import Owner
from splitlearn.engine.page_accounting import PageAccounting

MAX_DECODE_ROWS = 8
"""A request of at most this many rows decodes (a token, or a few guesses at it); a longer one is a prompt's."""


@dataclass
class ScheduledRequest:
    """The rows of one frame, and not of a whole prompt: a client sends a long prompt in several frames.

    Attributes:
        session: the number of its session.
        position: position of its first row in the session.
        n_rows: rows of the frame.
        max_length: rows that the session may ever hold; not more than all pages hold.
        owner: whose session it is.
        n_computed: rows of the frame that have been run.
    """

    session: int
    position: int
    n_rows: int
    max_length: int
    owner: Owner = ()
    n_computed: int = 0

    @property
    def is_decoding(self) -> bool:
        return self.n_rows <= MAX_DECODE_ROWS

    @property
    def n_left(self) -> int:
        return self.n_rows - self.n_computed


class ScheduledSlice(NamedTuple):
    """Rows `offset` to `offset + length` of a request, which run in the next step."""

    # a tuple, which is made faster than a frozen dataclass: each decision makes one for each session

    session: int
    offset: int
    length: int


@dataclass(frozen=True)
class Decision:
    """One step, and the sessions that are preempted before it, because there are too few pages."""

    slices: tuple[ScheduledSlice, ...]
    preempted: tuple[int, ...] = ()


@dataclass
class Scheduler:
    """Knows the pending requests; `Admission` knows the sessions that they are of.

    Attributes:
        pages: which session holds how many pages.
        evict_cached: frees at least as many pages of cached prefixes as its argument says, or all; returns how many.
        idle_seconds: for how long an admitted session without a request has had none.
        on_admitted: called with each session that is admitted.
    """

    limits: Limits
    pages: PageAccounting
    evict_cached: Callable[[int], int] = lambda _n_pages: 0
    idle_seconds: Callable[[int], float] = lambda _session: 0.0
    on_admitted: Callable[[int], None] = lambda _session: None
    admission: Admission = field(init=False)
    _requests: dict[int, ScheduledRequest] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.admission = Admission(self.limits, self.pages, self.evict_cached, self._idle_seconds, self.on_admitted)

    def __repr__(self) -> str:
        return f"<Scheduler {self.n_running} running, {self.n_waiting} waiting>"

    @property
    def n_waiting(self) -> int:
        """Sessions with a request that are not admitted. From any thread."""
        return len(self.admission.waiting)

    @property
    def n_running(self) -> int:
        """Sessions that are admitted, with a request or without. From any thread."""
        return len(self.admission.running)

    @property
    def shortage(self) -> Shortage:
        """What sessions wait for, if some do."""
        return self.admission.shortage

    @property
    def ready(self) -> list[ScheduledRequest]:
        """The requests of admitted sessions."""
        return [self._requests[session] for session in self.admission.running if session in self._requests]

    def admit(self, session: int, n_rows: int, max_length: int, owner: Owner = ()) -> bool:
        """Admits a session that begins with cached rows, unless others wait or there is no memory for it.

        Returns:
            False if it was not admitted, and so must begin without rows.
        """
        return self.admission.admit_cached(session, max_length, owner, n_rows)

    def submit(self, request: ScheduledRequest) -> int | None:
        """Adds a request; a session has one at a time.

        Returns:
            The session whose request is refused and dropped because too many wait: this one, or the last one of the
            owner with most waiting sessions. None if there is a place for all.
        """
        session = request.session
        if session in self._requests:
            raise ValueError(f"session {session} has a request already")
        self._requests[session] = request
        end = request.position + request.n_rows
        self.admission.submit(session, request.max_length, request.owner, end, is_decoding=request.is_decoding)
        if self.admission.was_admitted(session) or self.n_waiting <= self.limits.max_waiting:
            return None
        if self.n_waiting <= self.limits.max_waiting + self.admission.n_giving_way(request.owner):
            # the next step begins with it
            return None
        refused = self.admission.waiting.to_displace(request.owner)
        refused = session if refused is None else refused
        self.drop(refused)
        return refused

    def request(self, session: int) -> ScheduledRequest | None:
        return self._requests.get(session)

    def is_waiting(self, session: int) -> bool:
        """Whether the session has a request and is not admitted."""
        return session in self.admission.waiting

    def was_admitted(self, session: int) -> bool:
        """Whether the session is admitted, or was and has not been removed."""
        return self.admission.was_admitted(session)

    def advance(self, session: int, n_rows: int) -> bool:
        """Counts rows that were run. True if the request is finished; it is then removed."""
        request = self._requests[session]
        request.n_computed += n_rows
        if request.n_left:
            return False
        del self._requests[session]
        return True

    def restart(self, session: int) -> None:
        """The session's request runs again from its first row."""
        self._requests[session].n_computed = 0

    def drop(self, session: int) -> None:
        """Removes the session's request, if it has one."""
        self._requests.pop(session, None)
        self.admission.drop(session)

    def release_pages(self, session: int, *, was_idle: bool) -> None:
        """Frees the pages of a session without a request; it can be admitted again."""
        self.admission.release(session, was_idle=was_idle)

    def remove(self, session: int) -> None:
        """Removes the session and frees its pages."""
        self._requests.pop(session, None)
        self.admission.remove(session)

    def schedule(self, prefill_budget: int) -> Decision:
        """The next step: all sessions that decode, and at most `prefill_budget` rows of prompts, shared evenly."""
        self.admission.admit_waiting()
        preempted = self.admission.admit_for_idle()
        ready = sorted(self.ready, key=attrgetter("session"))
        wanted = [_next_rows(request, request.n_left) for request in ready if request.is_decoding]
        if len(wanted) < len(ready):
            wanted += _shared([request for request in ready if not request.is_decoding], prefill_budget)
            wanted.sort()
        slices: list[ScheduledSlice] = []
        for slice_ in wanted:
            # an older session may have preempted it
            if slice_.session in self.admission.running and self._reserve(slice_, preempted):
                slices.append(slice_)
        return Decision(tuple(slices), tuple(preempted))

    def _idle_seconds(self, session: int) -> float:
        return 0.0 if session in self._requests else self.idle_seconds(session)

    def _reserve(self, slice_: ScheduledSlice, preempted: list[int]) -> bool:
        """Reserves the pages for a slice: evicts cached prefixes, then preempts the youngest session.

        Returns:
            False if the slice's own session is the youngest, and was preempted.
        """
        session = slice_.session
        rows = self._requests[session].position + slice_.offset + slice_.length
        if rows <= self.pages.held_by(session) * self.pages.page_size:
            return True
        missing = self.pages.missing(session, rows)
        while missing:
            n_evicted = self.evict_cached(missing)
            if not n_evicted:
                youngest = max(self.admission.running)
                self.admission.release(youngest, waits=youngest in self._requests)
                preempted.append(youngest)
                if youngest == session:
                    return False
            missing = self.pages.missing(session, rows)
        return self.pages.reserve(session, rows)


def _next_rows(request: ScheduledRequest, n_rows: int) -> ScheduledSlice:
    return ScheduledSlice(request.session, request.n_computed, n_rows)


def _shared(prompts: list[ScheduledRequest], budget: int) -> list[ScheduledSlice]:
    """Divides `budget` rows evenly; what short prompts leave goes to the others.

    Args:
        prompts: the oldest first. Where there are more prompts than rows, the younger ones wait.
        budget: rows of all slices together, at most.
    """
    chosen = sorted(prompts[: max(0, budget)], key=lambda request: (request.n_left, request.session))
    slices = []
    for i, request in enumerate(chosen):
        n_rows = min(budget // (len(chosen) - i), request.n_left)
        budget -= n_rows
        slices.append(_next_rows(request, n_rows))
    return slices
