"""Sessions that hold pages in one engine while they wait in another: bottom, trunk and top never wait for each other.

Several clients, each with a bottom and a top of its own, share a trunk. Every engine is a scheduler, in virtual time.
"""

from dataclasses import dataclass, field
from random import Random

import pytest

from splitlearn.engine import giving_way
from splitlearn.engine.giving_way import AWAY_SECONDS
from splitlearn.engine.limits import Limits
from splitlearn.engine.page_accounting import PageAccounting
from splitlearn.engine.scheduler import ScheduledRequest, Scheduler
from support.crowd import NeverLonger

AWAY = 20
"""Steps after which a session without rows counts as away."""
PAGE_ROWS = 4
MOST_STEPS = 6000
"""More than twice as many as any of these seeds takes."""


@dataclass(eq=False)
class Part:
    """One engine: its scheduler, and the rows of each session in it."""

    dice: Random
    n_pages: int
    max_num_seqs: int
    is_optimistic: bool
    now: int = 0
    rows: dict[int, int] = field(default_factory=dict)
    asked: dict[int, int] = field(default_factory=dict)
    used: dict[int, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        limits = Limits(page_size=PAGE_ROWS, headroom=4, max_num_seqs=self.max_num_seqs)
        self.given = Scheduler(limits, PageAccounting(self.n_pages, PAGE_ROWS), idle_seconds=self.idle_seconds)
        if self.is_optimistic:
            self.given.admission.lengths = NeverLonger()

    def idle_seconds(self, session: int) -> float:
        return (self.now - self.used.get(session, 0)) * AWAY_SECONDS / AWAY

    def ask(self, session: int, start: int, stop: int, max_length: int, tenant: str) -> bool:
        """False if the session's rows are lost."""
        if start > self.rows.get(session, 0):
            return False
        self.used[session] = self.now
        assert self.given.submit(ScheduledRequest(session, start, stop - start, max_length, (tenant,))) is None
        self.asked[session] = stop
        return True

    def step(self) -> tuple[list[int], list[int]]:
        """The sessions whose rows have run, and those whose request is refused because their rows are lost."""
        self.now += 1
        decision, done, lost = self.given.schedule(8), [], []
        assert self.given.pages.check_consistency() is None
        for session in decision.preempted:
            self.rows[session] = 0
            request = self.given.request(session)
            if request is not None and request.position == 0:
                self.given.restart(session)
            elif request is not None:
                self.given.drop(session)
                del self.asked[session]
                lost.append(session)
        for slice_ in decision.slices:
            self.used[slice_.session] = self.now
            if self.given.advance(slice_.session, slice_.length):
                self.rows[slice_.session] = self.asked.pop(slice_.session)
                done.append(slice_.session)
        return done, lost

    def remove(self, session: int) -> None:
        self.given.remove(session)
        for each in (self.rows, self.asked, self.used):
            each.pop(session, None)


@dataclass(eq=False)
class Traveller:
    """Its rows go through bottom, trunk and top, frame by frame; all of them again when a part has lost them."""

    number: int
    parts: tuple[Part, Part, Part]
    tenant: str
    known: int
    length: int
    start: int = 0
    stop: int = 0
    at: int = 0
    waits: bool = False

    def go(self) -> None:
        """Gives the frame to the part where it is now."""
        self.stop = min(self.known, self.start + 6)
        self.waits = self.parts[self.at].ask(self.number, self.start, self.stop, self.length, self.tenant)
        if not self.waits:
            self.begin_again()

    def begin_again(self) -> None:
        self.start, self.at, self.waits = 0, 0, False

    def arrive(self) -> bool:
        """Whether it has come to its end."""
        self.waits, self.at = False, (self.at + 1) % 3
        if self.at == 0:
            self.start = self.stop
            self.known += self.stop == self.known
        return self.known > self.length


@dataclass
class World:
    seed: int
    is_optimistic: bool
    n_sessions: int = 40
    ended: list[int] = field(default_factory=list)
    n_steps: int = 0

    def __post_init__(self) -> None:
        self.dice = dice = Random(self.seed)
        self.trunk = self.part()
        self.clients = [(self.part(), self.part()) for _ in range(dice.randint(1, 3))]
        self.parts = [self.trunk, *(part for client in self.clients for part in client)]
        self.travellers: dict[int, Traveller] = {}
        self.opened = 0

    def part(self) -> Part:
        return Part(self.dice, self.dice.randint(8, 16), self.dice.choice((2, 100)), self.is_optimistic)

    def run(self) -> None:
        quiet = 0
        while len(self.ended) < self.n_sessions:
            quiet, self.n_steps = 0 if self.step() else quiet + 1, self.n_steps + 1
            assert quiet <= 3 * AWAY, f"all wait for each other; seed {self.seed}"
            assert self.n_steps < MOST_STEPS, f"they take each other's places for ever; seed {self.seed}"

    def step(self) -> bool:
        """Whether anything has happened."""
        dice, happened = self.dice, False
        if self.opened < self.n_sessions and len(self.travellers) < 20 and dice.random() < 0.5:
            length, (bottom, top) = dice.randint(2, 30), dice.choice(self.clients)
            tenant = dice.choice("aaaab")
            known = dice.randint(1, length)
            self.travellers[self.opened] = Traveller(self.opened, (bottom, self.trunk, top), tenant, known, length)
            self.opened += 1
        for traveller in list(self.travellers.values()):
            if not traveller.waits and dice.random() < 0.5:
                traveller.go()
                happened = True
        for part in self.parts:
            done, lost = part.step()
            happened = happened or bool(done or lost)
            for number in lost:
                self.travellers[number].begin_again()
            for number in done:
                if self.travellers[number].arrive():
                    self.end(number)
        return happened

    def end(self, number: int) -> None:
        for part in self.travellers.pop(number).parts:
            part.remove(number)
        self.ended.append(number)


@pytest.mark.parametrize("is_optimistic", [True, False])
@pytest.mark.parametrize("part", range(4))
def test_sessions_of_several_tenants_never_wait_for_each_other_in_different_engines(
    part: int, is_optimistic: bool
) -> None:
    for seed in range(part * 25, part * 25 + 25):
        world = World(seed, is_optimistic)
        world.run()
        assert sorted(world.ended) == list(range(world.n_sessions))
        assert not any(each.given.pages.used for each in world.parts)


def test_without_taking_pages_from_sessions_that_do_nothing_they_would(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Part, "idle_seconds", lambda *_: 0.0)

    def many() -> None:
        for seed in range(100):
            World(seed, is_optimistic=True).run()

    with pytest.raises(AssertionError, match="all wait for each other"):
        many()


def test_if_younger_ones_took_places_as_soon_as_older_ones_some_would_go_on_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(giving_way, "LONG_AWAY_SECONDS", AWAY_SECONDS)
    with pytest.raises(AssertionError, match="take each other's places for ever"):
        World(2, is_optimistic=True).run()
