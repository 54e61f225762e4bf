"""A crowd that was refused and never comes again must not keep away those who come after it."""

from dataclasses import dataclass, field
from heapq import heappop, heappush
from random import Random

import pytest

from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.queue_forecast import Newcomer, QueueForecast
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler

N_PLACES, STAY_SECONDS, ROWS = 8, 10.0, 100
OWNER = ("", "")
"""Without tokens and keys all are one."""


@dataclass
class Refusal:
    at: float
    seconds: float
    """What it was told."""
    n_waiting: int


@dataclass
class Service:
    """Who is refused comes again when it was told to, except the crowd. Time is simulated."""

    dice: Random
    refusals: list[Refusal] = field(default_factory=list)
    """Without the crowd's."""
    waits: list[float] = field(default_factory=list)
    """Of all but the crowd, from first coming to a place."""
    _now: float = 0.0
    _n_sessions: int = 0
    _n_events: int = 0
    _admitted: list[int] = field(default_factory=list)
    # when a session that is not of the crowd came first
    _came: dict[int, float] = field(default_factory=dict)
    # when, a number against ties, the session that ends or None, when the session that comes came first or None
    _events: list[tuple[float, int, int | None, float | None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        limits = Limits(page_size=10, headroom=0, queue_timeout=37.5)
        self.scheduler = Scheduler(limits, PageAccounting(10 * N_PLACES, 10), on_admitted=self._admitted.append)
        self.forecast = QueueForecast(limits, self.scheduler.admission)
        # how long a session stays is known
        self.forecast.times.admitted(-1, -STAY_SECONDS)
        self.forecast.times.ended(-1, 0.0)

    def comes(self, at: float, first: float | None) -> None:
        """`first` is when it came first; None for one of the crowd."""
        self._at(at, None, first)

    def run(self) -> None:
        while self._events:
            self._now, _, ends, first = heappop(self._events)
            if ends is None:
                self._come(first)
            else:
                self.scheduler.advance(ends, ROWS)
                self.scheduler.remove(ends)
                self.forecast.times.ended(ends, self._now)
                self.scheduler.admission.admit_waiting()
            self._begin()

    def _come(self, first: float | None) -> None:
        self._n_sessions += 1
        session = Newcomer(self._n_sessions, ROWS, OWNER, self.forecast.was_told(OWNER, self._now))
        if self.forecast.why_refused(session, self._now) is None:
            if first is not None:
                self._came[session.number] = first
            self.scheduler.submit(ScheduledRequest(session.number, 0, ROWS, ROWS, OWNER))
            return
        seconds = self.forecast.retry_after(session, self._now)
        if first is not None:
            self.refusals.append(Refusal(self._now, seconds, self.scheduler.n_waiting))
            self.comes(self._now + seconds + self.dice.random(), first)

    def _begin(self) -> None:
        for number in self._admitted:
            self.forecast.times.admitted(number, self._now)
            self._at(self._now + STAY_SECONDS * self.dice.uniform(0.5, 1.5), number, None)
            if number in self._came:
                self.waits.append(self._now - self._came[number])
        self._admitted.clear()

    def _at(self, at: float, ends: int | None, first: float | None) -> None:
        heappush(self._events, (at, self._n_events, ends, first))
        self._n_events += 1


@pytest.mark.parametrize("seed", range(6))
def test_a_crowd_that_never_comes_again_keeps_nobody_away_for_long(seed: int) -> None:
    dice = Random(seed)
    service = Service(dice)
    for number in range(1000):
        service.comes(number / 1000, None)
    at = 5.0
    while at < 600.0:
        service.comes(at, at)
        at += dice.expovariate(0.9 * N_PLACES / STAY_SECONDS)
    service.run()
    assert all(each.n_waiting for each in service.refusals)
    # the first of the crowd were told to come after half a minute, and until then they may come
    later = [each for each in service.refusals if each.at > 60.0]
    assert len(later) <= 3
    assert all(each.seconds < 60.0 for each in later)
    assert len(service.waits) > 350
