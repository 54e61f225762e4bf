"""Sessions that come, leave, fail and are closed in any order disturb no other: thousands of schedules.

Each is drawn from its number, which a failure names. SPLITLEARN_SCHEDULES runs more of them, SPLITLEARN_FIRST_SCHEDULE
others: `SPLITLEARN_SCHEDULES=1 SPLITLEARN_FIRST_SCHEDULE=4711` runs the one that failed.
"""

import asyncio
import gc
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from random import Random
from typing import Any

import pytest

from splitlearn.build import build_engine
from splitlearn.engine import Engine, EngineSession, Limits
from splitlearn.errors import PositionNotReached, SessionClosed
from support.crowd import admit_too_many
from support.schedules import (
    BAD_ROW,
    ExactRunner,
    ScheduledLoop,
    ScheduledThread,
    exact_outputs,
    exact_part,
    rows_of,
)

N_SCHEDULES = int(os.environ.get("SPLITLEARN_SCHEDULES", "250"))
FIRST = int(os.environ.get("SPLITLEARN_FIRST_SCHEDULE", "0"))
PAGE_ROWS = BLOCK_ROWS = 4


class BadObserver:
    """Fails at every call."""

    def step_done(self, n_sessions: int, n_rows: int, seconds: float) -> None:
        raise RuntimeError("observer")

    reused = preempted = expired = step_done


@dataclass
class User:
    """Runs a text of its own in pieces, sends everything again when it has to, and looks at all that comes out."""

    engine: Engine
    number: int
    dice: Random
    begins_like: int
    length: int
    fault: str = ""
    """Its fault: "row", "then", "stop"; or "" for nothing."""
    session: EngineSession | None = None
    was_closed: bool = False
    """By another caller, in the middle."""
    n_checked: int = 0
    rows: list[float] = field(init=False)

    def __post_init__(self) -> None:
        self.rows = [float(self.begins_like * 100 + i) for i in range(8)]
        self.rows += [float(self.number * 200 + i) for i in range(self.length - 8)]

    @property
    def names(self) -> list[bytes]:
        shared = [f"{self.begins_like} {i}".encode() for i in range(2)]
        return shared + [f"{self.number} {i}".encode() for i in range(self.length // BLOCK_ROWS - 2)]

    async def lives(self, n_lives: int) -> None:
        for _ in range(n_lives):
            self.session = self.engine.open(self.length, self.names if self.dice.random() < 0.7 else ())
            try:
                await self._send_all(self.session)
            finally:
                if self.dice.random() < 0.5:
                    self._close_and_cache(self.session)
                self.engine.close(self.session)
                self.engine.close(self.session)

    def _close_and_cache(self, session: EngineSession) -> None:
        try:
            self.engine.close_and_cache(session, self.names)
        except SessionClosed:
            assert self.was_closed
        else:
            with pytest.raises(SessionClosed):
                self.engine.close_and_cache(session, self.names)

    async def _send_all(self, session: EngineSession) -> None:
        position, expected = min(session.reached, self.length - 1), exact_outputs(self.rows)
        while position < self.length:
            if self.dice.random() < 0.05:
                # its place may be another's then
                await asyncio.sleep(self.dice.choice((1.0, 3.0, 9.0)))
            count = self.dice.choice((0, 1, 1, 1, 3, 9, 20))
            rows = self.rows[position : position + count]
            postprocess = None
            if self.fault and self.dice.random() < 0.3:
                rows, postprocess = self._faulty(rows)
            try:
                step = await self.engine.step(session, position, rows_of(rows), postprocess)
            except PositionNotReached:
                assert position
                position = 0
                continue
            assert step.output[:, 0].tolist() == expected[position : position + count], (self, position, count)
            self.n_checked += 1
            position += len(rows)
            if self.dice.random() < 0.1:
                position = self.dice.randrange(position + 1)

    def _faulty(self, rows: list[float]) -> tuple[list[float], Callable[[Any], Any] | None]:
        def fails(_: Any) -> None:
            raise StopIteration if self.fault == "stop" else ZeroDivisionError

        return ([*rows[:-1], BAD_ROW], None) if self.fault == "row" else (rows, fails)


@contextmanager
def scheduled(dice: Random | None) -> Iterator[ScheduledLoop]:
    loop = ScheduledLoop(dice)
    try:
        yield loop
    finally:
        loop.close()


@dataclass
class World:
    """One engine and its users, on one loop."""

    loop: ScheduledLoop
    dice: Random
    n_pages: int
    is_batched: bool = True
    observer: Any = None
    is_optimistic: bool = False
    """Admits too many sessions, so that some have to be preempted."""
    limits: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.runner = ExactRunner(self.n_pages, is_batched=self.is_batched)
        self.thread = ScheduledThread(Random(self.dice.random()))
        limits = Limits(**{"page_size": PAGE_ROWS, "block_size": BLOCK_ROWS, "headroom": 4, **self.limits})
        self.engine = build_engine(
            exact_part(), self.thread, limits, self.observer, lambda *_: self.runner, clock=self.loop.time
        )
        if self.is_optimistic:
            admit_too_many(self.engine)

    def user(self, number: int, fault: str = "") -> User:
        own = Random(self.dice.random())
        return User(self.engine, number, own, own.randrange(2), own.randrange(10, 31), fault)

    def check(self) -> None:
        """No session is left, all memory is free except for cached prefixes, and the next user is served."""
        self.loop.run_until_complete(self._rest())
        sessions = self.engine._sessions
        assert not sessions.requests
        assert not sessions._open
        scheduler = sessions.scheduler
        admission = scheduler.admission
        known = (scheduler._requests, admission.running, admission.waiting, admission._known)
        assert not any(known), known
        assert self.engine.pages.check_consistency() is None
        assert all(owner < 0 for owner in self.engine.pages.owners())
        assert len(self.runner.stores) == len(self.engine.pages.owners()) == self.engine.n_cached_prefixes
        last = User(self.engine, 7, Random(0), 0, 40)
        self.loop.run_until_complete(last.lives(1))
        assert last.n_checked
        assert not self.loop.complaints

    async def _rest(self) -> None:
        """Until the step is over that was running when the last user went."""
        for _ in range(1000):
            if self.engine._serving._task is None:
                return
            await asyncio.sleep(0.01)
        raise AssertionError("the engine goes on without a session")


def meddle(world: World, victims: list[User], tasks: list["asyncio.Task[None]"], dice: Random) -> None:
    """Lets things happen before some of the loop's turns."""

    def close(victim: User) -> None:
        if victim.session is not None:
            victim.was_closed = True
            world.engine.close(victim.session)

    def stop_serving() -> None:
        if world.engine._serving._task is not None:
            world.engine._serving._task.cancel()

    for victim, task in zip(victims, tasks, strict=True):
        what = dice.choice((task.cancel, task.cancel, lambda victim=victim: close(victim)))
        world.loop.before.setdefault(dice.randrange(1, 250), []).append(what)
    for _ in range(dice.randrange(3)):
        what = dice.choice((lambda: world.engine.expire(-1.0), stop_serving))
        world.loop.before.setdefault(dice.randrange(1, 250), []).append(what)


ALLOWED: dict[str, tuple[type[BaseException], ...]] = {
    "row": (RuntimeError,),
    "then": (ZeroDivisionError,),
    "stop": (RuntimeError,),
}


def one_schedule(number: int) -> None:
    dice = Random(number)
    with scheduled(Random(dice.random()) if dice.random() < 0.8 else None) as loop:
        world = World(
            loop,
            dice,
            n_pages=dice.choice((11, 14, 20, 200)),
            is_batched=dice.random() < 0.8,
            observer=BadObserver() if dice.random() < 0.2 else None,
            is_optimistic=dice.random() < 0.7,
            limits={
                "max_cached_prefixes": dice.choice((0, 1, 3)),
                "max_num_seqs": dice.choice((2, 4, 256)),
                "max_num_batched_tokens": 16,
            },
        )
        # silent strangers have taken places before anybody comes, perhaps all
        silent = [world.engine.open(8) for _ in range(dice.choice((0, 0, 2, 4)))]
        for stranger in silent[: world.engine.limits.max_num_seqs]:
            loop.run_until_complete(world.engine.step(stranger, 0, rows_of([1.0])))
        steady = [world.user(i) for i in range(dice.randrange(1, 4))]
        victims = [world.user(10 + i, dice.choice(("", "", *ALLOWED))) for i in range(dice.randrange(4))]
        for victim in victims:
            victim.fault = "" if victim.fault == "closed" else victim.fault
        tasks = [loop.create_task(user.lives(2)) for user in (*victims, *steady)]
        meddle(world, victims, tasks[: len(victims)], dice)
        found = loop.run_until_complete(asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 10_000.0))
        for stranger in silent:
            world.engine.close(stranger)
        for user, error in zip((*victims, *steady), found, strict=True):
            allowed = ALLOWED.get(user.fault, ()) + (SessionClosed,) * user.was_closed
            allowed += (asyncio.CancelledError,) * (user in victims)
            assert error is None or isinstance(error, allowed), (user, error)
        world.check()


# the observer's failures are logged, one after the other
@pytest.mark.usefixtures("quiet")
@pytest.mark.parametrize("part", range(4))
def test_in_any_schedule_a_session_that_stays_gets_what_it_gets_alone(part: int) -> None:
    for number in range(FIRST + part, FIRST + N_SCHEDULES, 4):
        try:
            one_schedule(number)
        except BaseException as error:
            error.add_note(f"schedule {number}")
            raise


def cancelled_at(turn: int, who: int, is_batched: bool, n_pages: int) -> int:
    """A caller leaves before one of the loop's turns; how many turns there were."""
    dice = Random(0)
    with scheduled(None) as loop:
        world = World(loop, dice, n_pages, is_batched, limits={"max_num_batched_tokens": 16, "max_cached_prefixes": 2})
        users = [world.user(i) for i in range(3)]
        tasks = [loop.create_task(user.lives(1)) for user in users]
        loop.before[turn] = [tasks[who].cancel]
        found = loop.run_until_complete(asyncio.gather(*tasks, return_exceptions=True))
        n_turns = loop.turn
        for i, error in enumerate(found):
            assert error is None or (i == who and isinstance(error, asyncio.CancelledError)), (turn, who, error)
        world.check()
    return n_turns


@pytest.mark.parametrize(("who", "is_batched", "n_pages"), [(0, True, 11), (1, True, 100), (2, False, 100)])
def test_a_caller_may_leave_at_every_turn_of_the_loop(who: int, is_batched: bool, n_pages: int) -> None:
    turn, n_turns = 1, 2
    while turn < n_turns:
        n_turns = cancelled_at(turn, who, is_batched, n_pages)
        turn += 1
    assert turn > 50


@pytest.fixture
def quiet(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    caplog.set_level("CRITICAL", "splitlearn.engine")
    yield
    # errors that nobody looked at are complained of when their futures go
    gc.collect()


def test_an_older_session_that_waits_gets_the_pages_of_one_that_has_done_nothing_for_two_seconds() -> None:
    with scheduled(None) as loop:
        world = World(loop, Random(0), n_pages=10, limits={"max_num_seqs": 1})
        older, younger = world.engine.open(20), world.engine.open(20)
        loop.run_until_complete(world.engine.step(younger, 0, rows_of([1.0, 2.0])))
        idle_since = loop.now
        # nothing else happens that could wake the engine
        loop.run_until_complete(world.engine.step(older, 0, rows_of([1.0, 2.0])))
        assert 2.0 <= loop.now - idle_since < 3.0
        assert younger.lost_pages


def test_a_session_that_waits_gets_the_seat_of_an_older_one_that_has_done_nothing_for_five_seconds() -> None:
    with scheduled(None) as loop:
        world = World(loop, Random(0), n_pages=10, limits={"max_num_seqs": 1})
        older, younger = world.engine.open(20), world.engine.open(20)
        loop.run_until_complete(world.engine.step(older, 0, rows_of([1.0, 2.0])))
        idle_since = loop.now
        loop.run_until_complete(world.engine.step(younger, 0, rows_of([1.0, 2.0])))
        assert 5.0 <= loop.now - idle_since < 7.1
        with pytest.raises(PositionNotReached):
            loop.run_until_complete(world.engine.step(older, 2, rows_of([3.0])))
        again = loop.run_until_complete(world.engine.step(older, 0, rows_of([1.0, 2.0, 3.0])))
        assert again.output[:, 0].tolist() == exact_outputs([1.0, 2.0, 3.0])


def test_sessions_that_wait_do_not_count_as_prompts_of_the_next_step() -> None:
    with scheduled(None) as loop:
        world = World(loop, Random(0), n_pages=10, limits={"max_num_seqs": 1})
        first, others = world.engine.open(20), [world.engine.open(20) for _ in range(5)]
        loop.run_until_complete(world.engine.step(first, 0, rows_of([1.0])))
        waiting = [loop.create_task(world.engine.step(other, 0, rows_of([1.0] * 12))) for other in others]
        loop.run_until_complete(asyncio.sleep(0.5))
        assert world.engine.n_waiting == 5
        state = world.engine._serving.state()
        assert (state.n_decoding, state.n_prefilling) == (0, 0)
        for task in waiting:
            task.cancel()
        loop.run_until_complete(asyncio.wait(waiting))
