"""Rows that wait for room do not wait for ever."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine, EngineSession, Limits
from splitlearn.errors import EngineFull

D = 64


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


def engine(weights: Path, thread: DeviceThread, seconds: float) -> Engine:
    return build_engine(load_part(weights, "1-4"), thread, Limits(max_num_seqs=1, queue_timeout=seconds))


async def test_a_request_that_times_out_is_refused_with_a_retry_time_and_leaves_its_session_as_it_was(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    it = engine(tiny_weights, thread, 0.05)
    first, second = it.open(), it.open()
    await it.step(first, 0, torch.zeros(3, D))
    working = asyncio.create_task(kept_busy(it, first))
    with pytest.raises(EngineFull, match=r"no room was found in 0\.05 s") as refused:
        await it.step(second, 0, torch.zeros(3, D))
    assert refused.value.retry_after
    assert not it.n_waiting
    working.cancel()
    await asyncio.wait({working})
    it.close(first)
    assert (await it.step(second, 0, torch.zeros(3, D))).output.shape == (3, D)


async def test_a_request_behind_one_that_timed_out_is_admitted(tiny_weights: Path, thread: DeviceThread) -> None:
    part = load_part(tiny_weights, "1-4")
    probe = build_engine(part, thread)
    it = build_engine(
        load_part(tiny_weights, "1-4"),
        thread,
        Limits(kv_cache_memory_bytes=probe.row_bytes * 32 * 4, headroom=0, queue_timeout=1.0),
    )
    first, large, small = it.open(), it.open(), it.open()
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
