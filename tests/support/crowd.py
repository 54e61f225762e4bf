"""Many users of one scheduler, in virtual time: what an engine and its clients do, without tensors and event loop.

A step takes a tenth of a second. After its output a session needs some steps for its next row, as it does where other
engines work on it in between. A session that lost its rows sends all of them again.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

from splitlearn.engine import Engine
from splitlearn.engine.giving_way import AWAY_SECONDS
from splitlearn.engine.lengths import LengthEstimator
from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.queue_time import QueueTimeEstimator
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler

STEP_SECONDS = 0.1
FRAME_ROWS = 64
PAGE_ROWS = 16


class NeverLonger(LengthEstimator):
    """Expects no session to grow, so that too many are admitted and some have to be preempted."""

    def expect(self, max_length: int, n_rows: int) -> int:
        return min(max_length, n_rows)


def admit_too_many(engine: Engine) -> None:
    """Lets an engine admit sessions by what they have and not by what they become, so that it has to preempt some.

    Those that do nothing between two rows lose their pages to older ones at once, so that no test has to wait for it.
    """
    scheduler = engine._sessions.scheduler
    scheduler.admission.lengths = NeverLonger()
    idle_seconds = scheduler.idle_seconds
    scheduler.idle_seconds = lambda session: max(AWAY_SECONDS, idle_seconds(session))


@dataclass(frozen=True)
class Kind:
    """What one user wants: a prompt, an answer of so many tokens, and the greatest length that it asks for."""

    prompt: int
    answer: int
    max_length: int
    tenant: str = ""


def named_limit(dice: Random) -> Kind:
    """The answer fills the limit, as benchmarks ask for it."""
    prompt, answer = dice.randint(8, 120), dice.randint(20, 200)
    return Kind(prompt, answer, prompt + answer)


def generous_limit(dice: Random) -> Kind:
    """The answer ends anywhere before the limit."""
    prompt, most = dice.randint(8, 120), dice.randint(100, 300)
    return Kind(prompt, dice.randint(1, most), prompt + most)


def no_limit(dice: Random) -> Kind:
    """The whole context, of which few use much."""
    prompt, answer = dice.randint(8, 200), 1 + int(dice.lognormvariate(4.4, 0.7))
    return Kind(prompt, min(answer, 2048 - prompt), 2048)


def any_of_them(dice: Random) -> Kind:
    return dice.choice((named_limit, generous_limit, no_limit))(dice)


@dataclass
class Visit:
    """One session of one user.

    Attributes:
        known: rows that its client knows: those of the prompt and of the tokens so far.
        n_rows: rows that the session holds.
        asked: rows that it will hold after its request; None if it has none.
        due: when its next request comes.
        n_lost: how often it lost its rows.
        waited_from: when it began to wait for admission; None if it did not wait.
        n_ahead: how many were before it then.
        estimate: how long it was to wait by the estimate of then.
        admitted: when it was admitted first.
    """

    kind: Kind
    known: int
    n_rows: int = 0
    asked: int | None = None
    due: float = 0.0
    n_lost: int = 0
    waited_from: float | None = None
    n_ahead: int = 0
    estimate: float = 0.0
    admitted: float | None = None
    ended: float = 0.0


@dataclass
class Crowd:
    """Runs visits until all have ended.

    Attributes:
        n_users: visits at a time; when one ends the next one comes.
        n_visits: all visits.
        draw: what a user wants.
        uses: the share of the pages in use after each step in which others waited.
        admissions: the time of each first admission.
    """

    dice: Random
    n_pages: int
    n_users: int
    n_visits: int
    draw: Callable[[Random], Kind]
    limits: Limits = field(default_factory=lambda: Limits(page_size=PAGE_ROWS, headroom=32, max_waiting=100_000))
    now: float = 0.0
    n_steps: int = 0
    n_came: int = 0
    visits: dict[int, Visit] = field(default_factory=dict)
    ended: list[Visit] = field(default_factory=list)
    uses: list[float] = field(default_factory=list)
    admissions: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        pages = PageAccounting(self.n_pages, self.limits.page_size)
        self.given = Scheduler(self.limits, pages, on_admitted=self.admit)
        self.queue_time = QueueTimeEstimator()

    @property
    def n_preempted(self) -> int:
        """Visits that lost their rows at least once."""
        return sum(visit.n_lost > 0 for visit in self.ended)

    @property
    def mean_use(self) -> float:
        return sum(self.uses) / len(self.uses)

    def run(self, max_steps: int = 100_000) -> "Crowd":
        while self.visits or self.n_came < self.n_visits:
            self.step()
            assert self.n_steps < max_steps, "somebody waits for ever"
        return self

    def step(self) -> None:
        while len(self.visits) < self.n_users and self.n_came < self.n_visits:
            kind = self.draw(self.dice)
            self.visits[self.n_came] = Visit(kind, kind.prompt)
            self.n_came += 1
        for number, visit in self.visits.items():
            if visit.asked is None and visit.due <= self.now:
                self.ask(number, visit)
        decision = self.given.schedule(256)
        assert self.given.pages.check_consistency() is None
        if self.given.n_waiting:
            self.uses.append(self.given.pages.used / self.given.pages.total)
        self.n_steps, self.now = self.n_steps + 1, self.now + STEP_SECONDS
        for number in decision.preempted:
            self.lose(number)
        for slice_ in decision.slices:
            if self.given.advance(slice_.session, slice_.length):
                self.arrive(slice_.session)

    def ask(self, number: int, visit: Visit) -> None:
        visit.asked = min(visit.known, visit.n_rows + FRAME_ROWS)
        n_rows, kind = visit.asked - visit.n_rows, visit.kind
        assert (
            self.given.submit(ScheduledRequest(number, visit.n_rows, n_rows, kind.max_length, (kind.tenant,))) is None
        )
        if self.given.is_waiting(number) and visit.admitted is None:
            visit.waited_from = self.now
            visit.n_ahead = self.given.admission.n_ahead((kind.tenant,), number)
            visit.estimate = self.queue_time.seconds(visit.n_ahead, self.now)

    def admit(self, number: int) -> None:
        self.queue_time.admitted(number, self.now)
        if self.visits[number].admitted is None:
            self.visits[number].admitted = self.now
            self.admissions.append(self.now)

    def lose(self, number: int) -> None:
        self.queue_time.preempted(number)
        visit, request = self.visits[number], self.given.request(number)
        visit.n_rows, visit.n_lost = 0, visit.n_lost + 1
        if request is not None and request.position == 0:
            self.given.restart(number)
            return
        self.given.drop(number)
        visit.asked = None

    def arrive(self, number: int) -> None:
        visit = self.visits[number]
        assert visit.asked is not None
        visit.n_rows, visit.asked = visit.asked, None
        if visit.n_rows == visit.known:
            visit.known += 1
        visit.due = self.now + self.dice.choice((0, 0, 1, 2)) * STEP_SECONDS
        if visit.known == visit.kind.prompt + visit.kind.answer:
            visit.ended = self.now
            self.given.remove(number)
            self.queue_time.ended(number, self.now)
            self.ended.append(self.visits.pop(number))
