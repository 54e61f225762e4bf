"""Which rows of which sessions run in the next step, who may come in, and who must give way. Plain integers.

Sessions are numbered in the order in which they were opened; the older one is served first where not all can be.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from splitlearn.engine.page_accounting import PageAccounting

DECODING_ROWS = 8
"""A job of at most so many rows is somebody's next token (or a few guesses at it), and not a prompt."""


@dataclass(frozen=True)
class Limits:
    """Bounds of one engine.

    Attributes:
        step_rows: rows of prompts in one step.
        sessions: sessions that hold pages at a time.
        waiting: sessions that may wait until there is room for them.
        kv_bytes: memory for keys and values; None for no bound, or half of what is free where it is taken at once.
        page_rows: rows of a page, where attention does not ask for others.
        headroom: rows beyond its first ones for which there must be room before a session is let in.
        kept: closed sessions whose rows are kept for later ones that begin alike; 0 keeps none.
        block_rows: rows of a block, the unit in which beginnings are compared.
        queue_seconds: how long rows may wait for room; then their session is told to come later. None for no bound.
    """

    step_rows: int = 512
    sessions: int = 256
    waiting: int = 1024
    kv_bytes: int | None = None
    page_rows: int = 32
    headroom: int = 64
    kept: int = 64
    block_rows: int = 32
    queue_seconds: float | None = None


@dataclass
class Job:
    """Rows that one session wants run: `n_rows` behind its first `position` rows, of which `done` have been."""

    session: int
    position: int
    n_rows: int
    most_rows: int | None
    done: int = 0

    @property
    def is_decoding(self) -> bool:
        return self.n_rows <= DECODING_ROWS


@dataclass(frozen=True)
class Slice:
    """The next rows of a job: `count` from the job's row `start` on."""

    session: int
    start: int
    count: int


@dataclass(frozen=True)
class Decision:
    """One step, and the sessions that lose their pages before it, because there are too few."""

    slices: tuple[Slice, ...]
    preempted: tuple[int, ...] = ()


@dataclass
class Scheduler:
    """Knows the jobs that wait and the sessions that were let in.

    Attributes:
        pages: who holds which pages; changed by `decide` and `leave` alone.
        evict_cached: frees pages of what is only kept for later; told how many are missing, says how many it freed.
    """

    limits: Limits
    pages: PageAccounting
    evict_cached: Callable[[int], int] = lambda _missing: 0
    _jobs: dict[int, Job] = field(default_factory=dict)
    _inside: dict[int, None] = field(default_factory=dict)
    # with a job, and not let in
    _outside: dict[int, None] = field(default_factory=dict)
    # let in at some time and not gone since: may wait to come back however many others do
    _known: set[int] = field(default_factory=set)

    @property
    def n_waiting(self) -> int:
        """Sessions with a job that have not been let in. From any thread."""
        return len(self._outside)

    @property
    def n_inside(self) -> int:
        return len(self._inside)

    def let_in(self, session: int, n_rows: int) -> bool:
        """Lets a session in that begins with rows; False, and it has to begin with none, if there is no room.

        Nor may it pass those who wait.
        """
        if self.n_waiting or len(self._inside) >= self.limits.sessions or not self.pages.reserve(session, n_rows):
            return False
        self._enter(session)
        return True

    def submit(self, job: Job) -> bool:
        """Takes a job; a session has one at a time. False, and nothing changes, if it could not even wait."""
        if job.session in self._jobs:
            raise ValueError(f"session {job.session} has a job already")
        self._jobs[job.session] = job
        if job.session not in self._inside:
            self._outside[job.session] = None
            self._let_in()
        if job.session in self._known or self.n_waiting <= self.limits.waiting:
            return True
        self.drop(job.session)
        return False

    def job(self, session: int) -> Job | None:
        return self._jobs.get(session)

    def waits(self, session: int) -> bool:
        """Whether the session has a job and no room for it."""
        return session in self._jobs and session not in self._inside

    def advance(self, session: int, count: int) -> bool:
        """Counts rows that were run. True if the job is done, which is then gone."""
        job = self._jobs[session]
        job.done += count
        if job.done < job.n_rows:
            return False
        del self._jobs[session]
        return True

    def begin_again(self, session: int) -> None:
        """Its rows are to be run from the first on."""
        self._jobs[session].done = 0

    def drop(self, session: int) -> None:
        """Forgets the session's job; nothing happens if it has none."""
        self._jobs.pop(session, None)
        self._outside.pop(session, None)

    def expire(self, session: int) -> None:
        """Takes the pages of a session that has no job; it may come back."""
        self._inside.pop(session, None)
        self.pages.release(session)

    def leave(self, session: int) -> None:
        """Forgets the session; its pages are free."""
        self.drop(session)
        self._inside.pop(session, None)
        self._known.discard(session)
        self.pages.release(session)

    def decide(self, prefill_budget: int) -> Decision:
        """The next step: all who decode, and of prompts at most `prefill_budget` rows, shared evenly."""
        preempted: list[int] = []
        self._let_in(preempted)
        ready = [self._jobs[session] for session in sorted(self._jobs) if session in self._inside]
        wanted = [Slice(job.session, job.done, job.n_rows - job.done) for job in ready if job.is_decoding]
        if len(wanted) < len(ready):
            wanted += _shared([job for job in ready if not job.is_decoding], prefill_budget)
            wanted.sort(key=lambda piece: piece.session)
        slices: list[Slice] = []
        for piece in wanted:
            if piece.session in self._inside and self._make_room(piece, preempted):
                slices.append(piece)
        return Decision(tuple(slices), tuple(preempted))

    def _enter(self, session: int) -> None:
        self._inside[session] = None
        self._outside.pop(session, None)
        self._known.add(session)

    def _let_in(self, preempted: list[int] | None = None) -> None:
        """In the order of their opening, as long as there is room; nobody is overtaken.

        With `preempted`, younger sessions make room that have nothing to run. Where bottom, trunk and top are
        engines of their own, those may wait elsewhere for the very session that waits here.
        """
        for session in sorted(self._outside):
            job = self._jobs[session]
            rows = job.position + job.n_rows + self.limits.headroom
            rows = rows if job.most_rows is None else min(rows, job.most_rows)
            if not self._has_room(session, rows) and (preempted is None or not self._clear(session, rows, preempted)):
                return
            # the pages are its own from now on, so that those who come after it find them taken
            self.pages.reserve(session, rows)
            self._enter(session)

    def _has_room(self, session: int, n_rows: int) -> bool:
        """Whether one more session may come in and find pages for its rows, if need be those of what is kept."""
        if len(self._inside) >= self.limits.sessions:
            return False
        missing = self.pages.missing(session, n_rows)
        return not missing or self.evict_cached(missing) >= missing

    def _clear(self, session: int, n_rows: int, preempted: list[int]) -> bool:
        """Takes the pages of younger sessions that have nothing to run; of none if that would not be enough."""
        idle = sorted(other for other in self._inside if other > session and other not in self._jobs)
        if not idle:
            return False
        self.evict_cached(self.pages.missing(session, n_rows))
        if sum(self.pages.held_by(other) for other in idle) < self.pages.missing(session, n_rows):
            return False
        while not self._has_room(session, n_rows):
            self._preempt(idle.pop(), preempted)
        return True

    def _preempt(self, session: int, preempted: list[int]) -> None:
        del self._inside[session]
        if session in self._jobs:
            self._outside[session] = None
        self.pages.release(session)
        preempted.append(session)

    def _make_room(self, piece: Slice, preempted: list[int]) -> bool:
        """Gets the pages for a slice; takes them from what is kept, then from the youngest. False if it is that."""
        rows = self._jobs[piece.session].position + piece.start + piece.count
        if rows <= self.pages.held_by(piece.session) * self.pages.page_size:
            return True
        while missing := self.pages.missing(piece.session, rows):
            if self.evict_cached(missing):
                continue
            youngest = max(self._inside)
            self._preempt(youngest, preempted)
            if youngest == piece.session:
                return False
        return self.pages.reserve(piece.session, rows)


def _shared(prompts: list[Job], rows: int) -> list[Slice]:
    """Divides `rows` evenly; what short ones leave goes to the others.

    Args:
        prompts: the oldest first. Where there are more of them than rows, the younger ones wait.
        rows: of all slices together, at most.
    """
    chosen = sorted(prompts[: max(0, rows)], key=lambda j: (j.n_rows - j.done, j.session))
    slices = []
    for i, job in enumerate(chosen):
        count = min(rows // (len(chosen) - i), job.n_rows - job.done)
        rows -= count
        slices.append(Slice(job.session, job.done, count))
    return slices
