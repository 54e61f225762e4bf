import asyncio
import threading
import time

import pytest
import torch

from splitlearn.engine import DeviceThread
from splitlearn.engine.arrivals import ArrivalEstimator


async def test_work_runs_on_one_other_thread_in_order() -> None:
    seen: list[tuple[int, int]] = []
    with DeviceThread() as thread:
        await asyncio.gather(*(thread.run(lambda i=i: seen.append((i, threading.get_ident()))) for i in range(5)))
    assert [i for i, _ in seen] == [0, 1, 2, 3, 4]
    assert {ident for _, ident in seen} != {threading.get_ident()}
    assert len({ident for _, ident in seen}) == 1


async def test_the_loop_goes_on_while_work_runs() -> None:
    gate = threading.Event()
    with DeviceThread() as thread:
        work = thread.run(gate.wait)
        await asyncio.sleep(0)
        assert not work.done()
        gate.set()
        assert (await work)[0] is True


async def test_work_cancelled_before_it_begins_never_runs() -> None:
    gate = threading.Event()
    ran: list[int] = []
    with DeviceThread() as thread:
        first = thread.run(gate.wait)
        second = thread.run(ran.append, 1)
        await asyncio.sleep(0)
        second.cancel()
        await asyncio.sleep(0)
        gate.set()
        await first
        await thread.run(int)
    assert ran == []


async def test_waiting_is_told_apart_from_running() -> None:
    gate = threading.Event()
    with DeviceThread() as thread:
        first = thread.run(gate.wait)
        second = thread.run(int)
        await asyncio.sleep(0)
        queued_at = time.perf_counter()
        await asyncio.sleep(0)
        opened_at = time.perf_counter()
        gate.set()
        await first
        _, timing = await second
    assert timing.queue_seconds >= opened_at - queued_at


async def test_errors_reach_the_caller() -> None:
    with DeviceThread() as thread, pytest.raises(ValueError, match="invalid literal"):
        await thread.run(int, "x")


async def test_the_number_of_cores_is_set_for_the_thread() -> None:
    before = torch.get_num_threads()
    with DeviceThread(1) as thread:
        threads, _ = await thread.run(torch.get_num_threads)
    assert threads == 1
    torch.set_num_threads(before)


async def test_draining_waits_for_the_calls_submitted_before() -> None:
    gate = threading.Event()
    with DeviceThread() as thread:
        await asyncio.wait_for(thread.drain(), 1)
        work = thread.run(gate.wait)
        await asyncio.sleep(0)
        draining = asyncio.create_task(thread.drain())
        await asyncio.sleep(0)
        assert not draining.done()
        gate.set()
        await draining
        assert work.done()
        await asyncio.wait_for(thread.drain(), 1)


def test_the_thread_is_due_when_the_first_of_its_engines_is() -> None:
    with DeviceThread() as thread:
        assert thread.next_due(0.0) is None
        estimators = [ArrivalEstimator(), ArrivalEstimator()]
        for estimator, away in zip(estimators, (0.3, 0.1), strict=True):
            thread.watch(estimator)
            estimator.on_sent(0, -away)
            estimator.on_received(0, 0.0)
            estimator.on_sent(0, 0.0)
        assert thread.next_due(0.04) == pytest.approx(0.06)
        estimators.pop()
        estimator = estimators[0]
        assert thread.next_due(0.04) == pytest.approx(0.26)
