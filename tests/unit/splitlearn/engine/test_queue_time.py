"""Rows that wait for room do not wait for ever."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.errors import EngineFull
from splitlearn.loading import load_part

D = 64


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


def engine(weights: Path, thread: DeviceThread, seconds: float) -> Engine:
    return Engine(load_part(weights, "1-4"), thread, Limits(sessions=1, queue_seconds=seconds))


async def test_rows_without_room_go_back_with_a_time_and_the_session_is_as_it_was(
    tiny_weights: Path, thread: DeviceThread
) -> None:
    it = engine(tiny_weights, thread, 0.05)
    first, second = it.open(), it.open()
    await it.step(first, 0, torch.zeros(3, D))
    older = it.step(first, 3, torch.zeros(1, D))
    with pytest.raises(EngineFull, match="no room was found in 0.05 s") as refused:
        # the first is never idle in between: rows of it are always under way
        await asyncio.gather(it.step(second, 0, torch.zeros(3, D)), kept_busy(it, first, older))
    assert refused.value.retry_after
    assert not it.n_waiting
    it.close(first)
    assert (await it.step(second, 0, torch.zeros(3, D))).output.shape == (3, D)


async def kept_busy(it: Engine, session: object, step: object) -> None:
    await step  # type: ignore[misc]
    while True:
        await it.step(session, 4, torch.zeros(1, D))  # type: ignore[arg-type]
