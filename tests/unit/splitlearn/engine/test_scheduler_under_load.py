"""The scheduler under random loads: pages are consistent after every step, and every session finishes."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from splitlearn.engine.giving_way import AWAY_SECONDS, LONG_AWAY_SECONDS
from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import Decision, ScheduledRequest, Scheduler
from support.crowd import NeverLonger


def scheduler(pages: int, idle_seconds: Sequence[float] = (AWAY_SECONDS,), **limits: int) -> Scheduler:
    """Sessions without a request have been idle for any of these times."""
    dice = random.Random(0)
    limits_of_all, counted = Limits(page_size=4, **{"headroom": 0, **limits}), PageAccounting(pages, 4)
    return Scheduler(limits_of_all, counted, idle_seconds=lambda _: dice.choice(idle_seconds))


def optimistic(given: Scheduler) -> Scheduler:
    """Admits too many, so that some have to be preempted."""
    given.admission.lengths = NeverLonger()
    return given


@dataclass
class Visitor:
    """A session that is to have `length` rows in the end: a prompt first, then a few rows at a time."""

    prompt: int
    length: int
    rows: int = 0
    lost: int = 0
    asked: int | None = None


@dataclass
class House:
    """Opens sessions at random and does for them what an engine and its clients would."""

    seed: int
    n_sessions: int
    given: Scheduler
    may_lose_oldest: bool = False
    visitors: dict[int, Visitor] = field(default_factory=dict)
    opened: int = 0
    ended: list[int] = field(default_factory=list)
    preempted: Counter[int] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self.dice = random.Random(self.seed)
        self.most_rows = self.given.pages.total * self.given.pages.page_size

    def step(self) -> None:
        if self.opened < self.n_sessions and self.dice.random() < 0.4:
            length = self.dice.randint(2, self.most_rows // self.dice.choice((1, 2, 4)))
            self.visitors[self.opened] = Visitor(self.dice.randint(1, length - 1), length)
            self.opened += 1
        for number, visitor in list(self.visitors.items()):
            if visitor.asked is None and self.dice.random() < 0.7:
                self.ask(number, visitor)
            elif self.dice.random() < 0.005:
                self.leave(number)
        limit = self.dice.choice((1, 7, 30))
        decision = self.given.schedule(limit)
        self.check(decision, limit)
        for number in decision.preempted:
            self.lose(number)
        for slice_ in decision.slices:
            if self.given.advance(slice_.session, slice_.length):
                self.arrive(slice_.session)

    def ask(self, number: int, visitor: Visitor) -> None:
        back = self.dice.randint(0, min(2, visitor.rows))
        end = max(visitor.prompt, visitor.lost, min(visitor.rows + self.dice.randint(1, 12), visitor.length))
        request = ScheduledRequest(number, visitor.rows - back, end - visitor.rows + back, visitor.length)
        refused = self.given.submit(request)
        assert refused in (None, number)
        if refused is None:
            visitor.asked = end

    def arrive(self, number: int) -> None:
        visitor = self.visitors[number]
        assert visitor.asked is not None
        visitor.rows, visitor.asked = visitor.asked, None
        if visitor.rows == visitor.length:
            self.leave(number)

    def leave(self, number: int) -> None:
        self.given.remove(number)
        del self.visitors[number]
        self.ended.append(number)

    def lose(self, number: int) -> None:
        self.preempted[number] += 1
        visitor, request = self.visitors[number], self.given.request(number)
        if request is not None and request.position == 0:
            self.given.restart(number)
            return
        self.given.drop(number)
        visitor.lost, visitor.rows, visitor.asked = visitor.rows, 0, None

    def check(self, decision: Decision, limit: int) -> None:
        pages = self.given.pages
        assert pages.check_consistency() is None
        numbers = [slice_.session for slice_ in decision.slices]
        assert len(set(numbers)) == len(numbers)
        assert not set(numbers) & set(decision.preempted)
        assert not pages.owners() & set(decision.preempted)
        if not self.may_lose_oldest:
            assert min(pages.owners(), default=-1) < min(decision.preempted, default=self.n_sessions)
        requests = {number: request for number in self.visitors if (request := self.given.request(number)) is not None}
        for slice_ in decision.slices:
            request = requests[slice_.session]
            assert slice_.offset == request.n_computed
            assert slice_.length > 0
            assert request.n_computed + slice_.length <= request.n_rows
            assert pages.held_by(slice_.session) >= pages.pages_for(request.position + slice_.offset + slice_.length)
        decoding = {number for number, request in requests.items() if request.is_decoding and number in pages.owners()}
        assert decoding <= set(numbers)
        assert sum(slice_.length for slice_ in decision.slices if not requests[slice_.session].is_decoding) <= limit


def run_to_the_end(house: House) -> None:
    for _ in range(3000):
        house.step()
        if len(house.ended) == 30:
            break
    assert sorted(house.ended) == list(range(30))
    assert house.given.pages.used == 0


@pytest.mark.parametrize("is_optimistic", [True, False])
@pytest.mark.parametrize("seed", range(20))
def test_under_any_load_pages_are_consistent_and_every_session_finishes(seed: int, is_optimistic: bool) -> None:
    dice = random.Random(seed)
    limits = {
        "max_num_seqs": dice.choice((3, 100)),
        "max_waiting": dice.choice((2, 100)),
        "headroom": dice.choice((0, 5)),
    }
    given = scheduler(pages=dice.randint(3, 12), **limits)
    house = House(seed, n_sessions=30, given=optimistic(given) if is_optimistic else given)
    run_to_the_end(house)
    assert house.preempted[0] == 0  # no session is older


@pytest.mark.parametrize("seed", range(20))
def test_where_idle_sessions_make_way_pages_are_consistent_too_and_every_session_finishes(seed: int) -> None:
    dice = random.Random(seed)
    idle = (0.0, AWAY_SECONDS, LONG_AWAY_SECONDS)
    given = optimistic(scheduler(dice.randint(3, 12), idle, max_num_seqs=dice.choice((3, 100))))
    house = House(seed, n_sessions=30, given=given, may_lose_oldest=True)
    run_to_the_end(house)


def test_the_random_loads_above_do_preempt_sessions() -> None:
    n_preempted = 0
    for seed in range(5):
        house = House(seed, n_sessions=30, given=optimistic(scheduler(pages=5)))
        while len(house.ended) < 30:
            house.step()
        n_preempted += sum(house.preempted.values())
    assert n_preempted >= 10
