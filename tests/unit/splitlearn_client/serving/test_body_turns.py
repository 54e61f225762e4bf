"""Turns of long bodies on a loop whose time a test moves."""

import asyncio
import json
from collections.abc import Callable

import pytest

from splitlearn_client.serving import body_turns
from splitlearn_client.serving.body_turns import SHORT, BodyTurns, cost_of


class Clock:
    """The loop's timers, which run out when a test says so, and the time that reading takes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        self.rests: list[tuple[float, Callable[[], None]]] = []
        loop = asyncio.get_running_loop()
        monkeypatch.setattr(loop, "call_later", lambda seconds, then: self.rests.append((seconds, then)))
        monkeypatch.setattr(body_turns.time, "perf_counter", lambda: self.now)

    async def read(self, turns: BodyTurns, seconds: float) -> None:
        """A body is read for so long, and then rested as long."""
        turns.begin()
        self.now += seconds
        await asyncio.sleep(0)
        ((rest, then),) = self.rests
        assert rest == pytest.approx(seconds)
        self.rests.clear()
        then()


@pytest.mark.parametrize(
    ("body", "least", "most"),
    [
        (json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}] * 20}).encode(), 60, 100),
        (json.dumps({"prompt": list(range(10_000))}).encode(), 10_000, 10_200),
        (json.dumps({"prompt": "x" * 2**20}).encode(), 2000, 2100),
        (b"{}", 1, 1),
    ],
)
def test_a_body_costs_what_its_values_and_its_length_do(body: bytes, least: int, most: int) -> None:
    assert least <= cost_of(body) <= most


async def test_bodies_are_read_one_after_the_other_with_a_rest_as_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = Clock(monkeypatch), BodyTurns()
    entered = [turns.enter(2 * SHORT) for _ in range(3)]
    for number in range(3):
        assert [turn.done() for turn in entered] == [True] * (number + 1) + [False] * (2 - number)
        await clock.read(turns, 0.25)
    # nobody waits: the next one has its turn at once
    assert turns.enter(2 * SHORT).done()


async def test_what_costs_less_is_read_earlier_until_others_have_waited_long(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = Clock(monkeypatch), BodyTurns()
    monkeypatch.setattr(asyncio.get_running_loop(), "time", lambda: clock.now)
    turns.enter(50_000)
    long, short = turns.enter(50_000), turns.enter(3000)
    await clock.read(turns, 0.5)
    assert short.done()
    assert not long.done()
    late = [turns.enter(3000)]
    clock.now += 60.0
    late.append(turns.enter(3000))
    for turn, after in [(late[0], long), (long, late[1])]:
        await clock.read(turns, 0.5)
        assert turn.done()
        assert not after.done()


async def test_who_leaves_takes_no_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, turns = Clock(monkeypatch), BodyTurns()
    turns.enter(2 * SHORT)
    first, second, third, last = (turns.enter(2 * SHORT) for _ in range(4))
    turns.leave(first)
    await clock.read(turns, 0.5)
    assert second.done()
    # a turn that is given up goes to the next one at once, and one given up before counts for nothing
    turns.leave(third)
    turns.leave(second)
    assert last.done()
    assert not last.cancelled()
