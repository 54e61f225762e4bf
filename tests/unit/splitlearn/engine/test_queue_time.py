"""How long sessions wait: the estimate, the refusals that come of it, and rows that wait no longer than they may."""

import asyncio
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
import torch

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine, EngineSession, Limits
from splitlearn.engine.queue_time import QueueTimeEstimator
from splitlearn.errors import EngineFull

D = 64


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


# the estimate


def stayed(*stays: float) -> QueueTimeEstimator:
    """An estimator that has seen sessions stay for so long."""
    estimator = QueueTimeEstimator()
    for stay in stays:
        estimator.admitted(0, 0.0)
        estimator.ended(0, stay)
    return estimator


def test_without_any_admitted_session_nothing_is_known() -> None:
    assert QueueTimeEstimator().seconds(100, 5.0) == 0.0
    assert stayed(10.0).seconds(100, 5.0) == 0.0


def test_the_next_place_is_free_when_the_session_that_came_first_has_stayed_for_as_long_as_others() -> None:
    estimator = stayed(10.0, 10.0)
    estimator.admitted(1, 100.0)
    estimator.admitted(2, 104.0)
    assert estimator.seconds(0, 106.0) == pytest.approx(4.0)
    assert estimator.seconds(1, 106.0) == pytest.approx(8.0)


def test_each_place_is_free_again_after_another_stay() -> None:
    estimator = stayed(10.0)
    estimator.admitted(1, 100.0)
    estimator.admitted(2, 105.0)
    assert estimator.seconds(2, 105.0) == pytest.approx(5.0 + 10.0)
    assert estimator.seconds(7, 105.0) == pytest.approx(10.0 + 3 * 10.0)


def test_places_that_nobody_has_taken_yet_are_taken_by_those_ahead() -> None:
    estimator = stayed(10.0)
    assert estimator.seconds(1, 0.0, n_free=2) == 0.0
    assert estimator.seconds(2, 0.0, n_free=2) == pytest.approx(10.0)
    assert estimator.seconds(5, 0.0, n_free=2) == pytest.approx(20.0)
    estimator.admitted(1, 0.0)
    assert estimator.seconds(2, 4.0, n_free=2) == pytest.approx(6.0)
    assert QueueTimeEstimator().seconds(5, 0.0, n_free=2) == 0.0


def test_before_any_has_ended_sessions_are_expected_to_stay_for_as_long_again() -> None:
    estimator = QueueTimeEstimator()
    estimator.admitted(1, 0.0)
    assert estimator.seconds(0, 3.0) == pytest.approx(3.0)
    assert estimator.seconds(2, 3.0) == pytest.approx(3.0 + 2 * 6.0)


def test_a_session_that_stays_longer_than_any_before_is_expected_to_stay_as_long_again() -> None:
    estimator = stayed(10.0)
    estimator.admitted(1, 0.0)
    assert estimator.seconds(0, 25.0) == pytest.approx(25.0)


def test_a_preempted_session_has_no_place_and_says_nothing_about_how_long_others_stay() -> None:
    estimator = stayed(10.0)
    estimator.admitted(1, 0.0)
    estimator.preempted(1)
    estimator.ended(1, 500.0)
    estimator.admitted(2, 500.0)
    assert estimator.seconds(0, 500.0) == pytest.approx(10.0)


def test_the_estimate_follows_sessions_that_become_shorter() -> None:
    estimator = stayed(*[100.0] * 50, *[2.0] * 64)
    estimator.admitted(1, 0.0)
    assert estimator.seconds(0, 0.0) == pytest.approx(2.0)


@pytest.mark.parametrize("seed", range(20))
def test_no_estimate_is_negative_infinite_or_not_a_number_and_more_ahead_never_means_less(seed: int) -> None:
    dice, estimator, now, present = Random(seed), QueueTimeEstimator(), 0.0, set[int]()
    for number in range(300):
        now += dice.choice((0.0, 0.0, 1e-9, 0.1, 5.0, 1e6))
        estimator.admitted(number, now)
        present.add(number)
        for gone in [other for other in present if dice.random() < 0.2]:
            present.discard(gone)
            (estimator.ended if dice.random() < 0.7 else lambda session, _: estimator.preempted(session))(gone, now)
        estimates = [estimator.seconds(n_ahead, now) for n_ahead in (0, 1, 2, 50, 10_000)]
        assert all(math.isfinite(each) and each >= 0.0 for each in estimates)


# refusals


@dataclass
class Clock:
    now: float = 0.0

    def __call__(self) -> float:
        return self.now


def engine(weights: Path, thread: DeviceThread, clock: Clock, seconds: float, **limits: int) -> Engine:
    part = load_part(weights, "1-4")
    return build_engine(part, thread, Limits(max_num_seqs=1, queue_timeout=seconds, **limits), clock=clock)


async def after_a_stay_of(it: Engine, clock: Clock, seconds: float) -> EngineSession:
    """One session has stayed for so long, and the next one has been admitted."""
    before, running = it.open(), it.open()
    await it.step(before, 0, torch.zeros(3, D))
    clock.now += seconds
    it.close(before)
    await it.step(running, 0, torch.zeros(3, D))
    return running


async def test_a_session_that_would_wait_longer_than_it_may_is_refused_at_once_and_can_come_again(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    clock = Clock()
    it = engine(tiny_weights, thread, clock, seconds=30.0)
    running = await after_a_stay_of(it, clock, 40.0)
    clock.now += 5.0
    await it.step(running, 3, torch.zeros(1, D))
    second = it.open()
    asking = asyncio.create_task(it.step(second, 0, torch.zeros(3, D)))
    with pytest.raises(EngineFull, match=r"a seat may not be free within 30 s; try again in 35 s") as refused:
        await asyncio.wait_for(asking, 10.0)
    assert refused.value.retry_after == pytest.approx(35.0)
    assert not it.n_waiting
    clock.now += 15.0
    await it.step(running, 4, torch.zeros(1, D))
    third = asyncio.create_task(it.step(it.open(), 0, torch.zeros(3, D)))
    await asyncio.sleep(0)
    assert it.n_waiting == 1
    third.cancel()
    await asyncio.wait({third})
    it.close(running)
    assert (await it.step(second, 0, torch.zeros(3, D))).output.shape == (3, D)


async def test_a_session_that_would_wait_too_long_is_refused_when_it_is_opened(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    clock = Clock()
    it = engine(tiny_weights, thread, clock, seconds=50.0)
    running = await after_a_stay_of(it, clock, 40.0)
    # it will have rows, and is the one that may wait
    second = it.open()
    with pytest.raises(EngineFull, match=r"a seat may not be free within 50 s; try again in 80 s"):
        it.open()
    # told after it, unless another engine has told it too
    with pytest.raises(EngineFull, match="try again in 120 s"):
        it.open(refused_elsewhere=True)
    with pytest.raises(EngineFull, match="try again in 120 s"):
        it.open()
    it.close(second)
    it.close(it.open())
    it.close(running)
    it.open()


async def test_a_session_that_got_its_cached_rows_is_not_announced(tiny_weights: Path, thread: DeviceThread) -> None:
    clock = Clock()
    part = load_part(tiny_weights, "1-4")
    it = build_engine(part, thread, Limits(max_num_seqs=1, queue_timeout=1.0, block_size=4), clock=clock)
    first = it.open()
    await it.step(first, 0, torch.zeros(4, D))
    clock.now += 40.0
    it.close_and_cache(first, (b"block",))
    again = it.open(block_hashes=(b"block",))
    assert again.reached == 4
    # nobody is expected to send rows before this one
    assert it.open().reached == 0


async def test_before_any_session_has_ended_nobody_is_refused_because_of_an_estimate(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    clock = Clock()
    it = engine(tiny_weights, thread, clock, seconds=30.0)
    running = it.open()
    await it.step(running, 0, torch.zeros(3, D))
    clock.now += 1000.0
    waiting = asyncio.create_task(it.step(it.open(), 0, torch.zeros(3, D)))
    await asyncio.sleep(0)
    assert it.n_waiting == 1
    it.close(running)
    assert (await waiting).output.shape == (3, D)


async def test_a_session_that_was_admitted_before_is_not_refused_because_it_would_wait_for_long(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    clock = Clock()
    it = engine(tiny_weights, thread, clock, seconds=30.0)
    first = await after_a_stay_of(it, clock, 400.0)
    clock.now += 20.0
    it.expire(10.0)
    running = it.open()
    await it.step(running, 0, torch.zeros(3, D))
    clock.now += 100.0
    working = asyncio.create_task(kept_busy(it, running))
    again = asyncio.create_task(it.step(first, 0, torch.zeros(3, D)))
    await asyncio.sleep(0)
    assert it.n_waiting == 1
    working.cancel()
    await asyncio.wait({working})
    it.close(running)
    assert (await again).output.shape == (3, D)


async def test_past_max_waiting_the_refusal_says_when_all_that_wait_have_been_admitted(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    clock = Clock()
    it = engine(tiny_weights, thread, clock, seconds=1000.0, max_waiting=2)
    running = await after_a_stay_of(it, clock, 40.0)
    waiting = [asyncio.create_task(it.step(it.open(), 0, torch.zeros(3, D))) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(EngineFull, match="2 sessions wait for a seat already") as refused:
        await it.step(it.open(), 0, torch.zeros(3, D))
    assert refused.value.retry_after == pytest.approx(40.0 + 2 * 40.0)
    it.close(running)
    for task in waiting:
        task.cancel()
    await asyncio.wait(waiting)


async def test_when_the_queue_is_full_the_tenant_with_most_waiting_sessions_gives_up_its_last_for_another_tenant(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    it = engine(tiny_weights, thread, Clock(), seconds=1000.0, max_waiting=3)
    running = it.open(owner=("many",))
    await it.step(running, 0, torch.zeros(3, D))
    many = [asyncio.create_task(it.step(it.open(owner=("many",)), 0, torch.zeros(3, D))) for _ in range(3)]
    await asyncio.sleep(0)
    few = asyncio.create_task(it.step(it.open(owner=("few",)), 0, torch.zeros(3, D)))
    with pytest.raises(EngineFull):
        await asyncio.wait_for(many[2], 10.0)
    assert it.n_waiting == 3
    for task in (*many[:2], few):
        task.cancel()
    await asyncio.wait((*many[:2], few))


async def test_a_request_that_times_out_is_refused_with_a_retry_time_and_leaves_its_session_as_it_was(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    it = engine(tiny_weights, thread, Clock(), 0.05)
    first, second = it.open(), it.open()
    await it.step(first, 0, torch.zeros(3, D))
    working = asyncio.create_task(kept_busy(it, first))
    with pytest.raises(EngineFull, match=r"waited 0\.05 s for a seat") as refused:
        await it.step(second, 0, torch.zeros(3, D))
    assert refused.value.retry_after == 1.0
    assert not it.n_waiting
    working.cancel()
    await asyncio.wait({working})
    it.close(first)
    assert (await it.step(second, 0, torch.zeros(3, D))).output.shape == (3, D)


async def test_a_request_behind_one_that_timed_out_is_admitted(tiny_weights: Path, thread: DeviceThread) -> None:
    part = load_part(tiny_weights, "1-4")
    probe = build_engine(part, thread)
    limits = Limits(kv_cache_memory_bytes=probe.row_bytes * 32 * 4, headroom=0, queue_timeout=1.0)
    it = build_engine(load_part(tiny_weights, "1-4"), thread, limits, clock=Clock())
    first, large, small = it.open(64), it.open(96), it.open(3)
    await it.step(first, 0, torch.zeros(40, D))
    working = asyncio.create_task(kept_busy(it, first, 40))
    # three pages are too many beside two that are in use, one would do
    asking = asyncio.create_task(it.step(large, 0, torch.zeros(96, D)))
    # the small one comes later, and so has time left when the large one has none
    await asyncio.wait({asking}, timeout=0.5)
    assert (await it.step(small, 0, torch.zeros(3, D))).output.shape == (3, D)
    with pytest.raises(EngineFull):
        await asking
    working.cancel()
    await asyncio.wait({working})


async def kept_busy(it: Engine, session: EngineSession, position: int = 3) -> None:
    """Rows of the session are always under way, so that nobody takes its pages."""
    while True:
        await it.step(session, position, torch.zeros(1, D))
