"""Which rows of which sessions run in the next step, which sessions are admitted, and which are preempted.

Plain integers. Sessions are numbered in the order in which they were opened; older sessions are served first. Used on
the event loop's thread; `n_waiting` may be read from any thread.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from splitlearn.engine.page_accounting import PageAccounting

MAX_DECODE_ROWS = 8
"""A request of at most this many rows decodes (a token, or a few guesses at it); a longer one is a prompt's."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine.

    Attributes:
        max_num_batched_tokens: rows of prompts in one step.
        max_num_seqs: sessions that hold pages at a time.
        max_waiting: sessions that may wait for admission.
        kv_cache_memory_bytes: memory for keys and values; None for no bound, or for half of what is free where it is
            all allocated at the start.
        page_size: rows of a page, unless the attention kernel needs another size.
        headroom: rows beyond its first ones for which there must be pages before a session is admitted.
        max_cached_prefixes: closed sessions whose first rows are cached for later ones; 0 caches none.
        block_size: rows of a block, the unit in which prefixes are compared.
        queue_timeout: seconds that rows may wait for admission before they are refused; None for no bound.
    """

    max_num_batched_tokens: int = 512
    max_num_seqs: int = 256
    max_waiting: int = 1024
    kv_cache_memory_bytes: int | None = None
    page_size: int = 32
    headroom: int = 64
    max_cached_prefixes: int = 64
    block_size: int = 32
    queue_timeout: float | None = None


@dataclass
class ScheduledRequest:
    """The rows of one frame, and not of a whole prompt: a client sends a long prompt in several frames.

    Attributes:
        session: the number of its session.
        position: position of its first row in the session.
        n_rows: rows of the frame.
        max_length: rows that the session may ever hold; None for no bound.
        n_computed: rows of the frame that have been run.
    """

    session: int
    position: int
    n_rows: int
    max_length: int | None
    n_computed: int = 0

    @property
    def is_decoding(self) -> bool:
        return self.n_rows <= MAX_DECODE_ROWS

    @property
    def n_left(self) -> int:
        return self.n_rows - self.n_computed


@dataclass(frozen=True)
class ScheduledSlice:
    """Rows `offset` to `offset + length` of a request, which run in the next step."""

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
    """Knows the pending requests and the sessions that were admitted.

    Attributes:
        pages: which session holds how many pages.
        evict_cached: frees at least as many pages of cached prefixes as its argument says, or all; returns how many.
    """

    limits: Limits
    pages: PageAccounting
    evict_cached: Callable[[int], int] = lambda _n_pages: 0
    _requests: dict[int, ScheduledRequest] = field(default_factory=dict)
    _running: dict[int, None] = field(default_factory=dict)
    # sessions with a request that are not admitted
    _waiting: dict[int, None] = field(default_factory=dict)
    # sessions that were admitted once and not removed since: `max_waiting` does not refuse them
    _admitted_before: set[int] = field(default_factory=set)

    def __repr__(self) -> str:
        return f"<Scheduler {self.n_running} running, {self.n_waiting} waiting>"

    @property
    def n_waiting(self) -> int:
        """Sessions with a request that are not admitted. From any thread."""
        return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Sessions that are admitted, with a request or without."""
        return len(self._running)

    def admit(self, session: int, n_rows: int) -> bool:
        """Admits a session that begins with cached rows, unless others wait or its pages are missing.

        Returns:
            False if it was not admitted, and so must begin without rows.
        """
        if self._waiting or len(self._running) >= self.limits.max_num_seqs:
            return False
        is_reserved = self.pages.reserve(session, n_rows)
        if is_reserved:
            self._admit(session)
        return is_reserved

    def submit(self, request: ScheduledRequest) -> bool:
        """Adds a request; a session has one at a time. False, and nothing changes, if too many sessions wait."""
        session = request.session
        if session in self._requests:
            raise ValueError(f"session {session} has a request already")
        self._requests[session] = request
        if session not in self._running:
            self._waiting[session] = None
            self._admit_waiting()
        if session in self._admitted_before or self.n_waiting <= self.limits.max_waiting:
            return True
        self.drop(session)
        return False

    def request(self, session: int) -> ScheduledRequest | None:
        return self._requests.get(session)

    def is_waiting(self, session: int) -> bool:
        """Whether the session has a request and is not admitted."""
        return session in self._waiting

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
        self._waiting.pop(session, None)

    def release_pages(self, session: int) -> None:
        """Frees the pages of a session without a request; it can be admitted again."""
        self._running.pop(session, None)
        self.pages.release(session)

    def remove(self, session: int) -> None:
        """Removes the session and frees its pages."""
        self.drop(session)
        self.release_pages(session)
        self._admitted_before.discard(session)

    def schedule(self, prefill_budget: int) -> Decision:
        """The next step: all sessions that decode, and at most `prefill_budget` rows of prompts, shared evenly."""
        preempted: list[int] = []
        self._admit_waiting(preempted)
        ready = [self._requests[session] for session in sorted(self._requests) if session in self._running]
        wanted = [_next_rows(request, request.n_left) for request in ready if request.is_decoding]
        if len(wanted) < len(ready):
            wanted += _shared([request for request in ready if not request.is_decoding], prefill_budget)
            wanted.sort(key=lambda slice_: slice_.session)
        slices: list[ScheduledSlice] = []
        for slice_ in wanted:
            # an older session may have preempted it
            has_pages = slice_.session in self._running
            if has_pages:
                has_pages = self._reserve(slice_, preempted)
            if has_pages:
                slices.append(slice_)
        return Decision(tuple(slices), tuple(preempted))

    def _admit(self, session: int) -> None:
        self._running[session] = None
        self._waiting.pop(session, None)
        self._admitted_before.add(session)

    def _admit_waiting(self, preempted: list[int] | None = None) -> None:
        """Admits waiting sessions in the order of their opening, as long as there are pages; none overtakes another.

        With `preempted`, younger sessions without a request are preempted for them. Where bottom, trunk and top are
        separate engines, such a session may wait in another engine for the very session that waits here.
        """
        for session in sorted(self._waiting):
            request = self._requests[session]
            rows = request.position + request.n_rows + self.limits.headroom
            rows = rows if request.max_length is None else min(rows, request.max_length)
            can_admit = self._free_enough(session, rows)
            if not can_admit and preempted is not None:
                can_admit = self._preempt_idle(session, rows, preempted)
            if not can_admit:
                return
            # reserved now, so that the sessions behind it cannot count on the same pages
            self.pages.reserve(session, rows)
            self._admit(session)

    def _free_enough(self, session: int, n_rows: int) -> bool:
        """Whether one more session may be admitted with pages for its rows. Evicts cached prefixes if need be."""
        if len(self._running) >= self.limits.max_num_seqs:
            return False
        missing = self.pages.missing(session, n_rows)
        if not missing:
            return True
        return self.evict_cached(missing) >= missing

    def _preempt_idle(self, session: int, n_rows: int, preempted: list[int]) -> bool:
        """Preempts younger sessions without a request, the youngest first; none if that would not be enough."""
        idle = sorted(other for other in self._running if other > session and other not in self._requests)
        if not idle:
            return False
        self.evict_cached(self.pages.missing(session, n_rows))
        if sum(self.pages.held_by(other) for other in idle) < self.pages.missing(session, n_rows):
            return False
        is_free = self._free_enough(session, n_rows)
        while not is_free:
            self._preempt(idle.pop(), preempted)
            is_free = self._free_enough(session, n_rows)
        return True

    def _preempt(self, session: int, preempted: list[int]) -> None:
        del self._running[session]
        if session in self._requests:
            self._waiting[session] = None
        self.pages.release(session)
        preempted.append(session)

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
                youngest = max(self._running)
                self._preempt(youngest, preempted)
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
