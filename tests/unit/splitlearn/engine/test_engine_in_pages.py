"""An engine whose sessions share a pool of pages, as on a CUDA device: pages and pages agree whatever happens.

Shapes: T rows, D hidden size.
"""

import asyncio
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.attention.kv_layout import KVLayout
from splitlearn.backends.cuda.backend import PagedBackend
from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, EngineSession, Limits
from splitlearn.errors import NoRoom, PositionNotReached, SessionClosed
from splitlearn.runner.batched import BatchedRunner
from support.crowd import admit_too_many
from support.paged import KERNEL, PAGE_ROWS, Record, paged_runner

D = 64


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


class Given:
    """An engine of so many pages, the store of its runner, and the same part by itself."""

    def __init__(self, thread: DeviceThread, weights: Path, n_pages: int, **limits: Any) -> None:
        self.part = load_part(weights, "1-4")
        self.stores: list[PagedBackend] = []
        self.engine = build_engine(
            self.part, thread, Limits(**{"block_size": 4, "headroom": 0, **limits}), runner=partial(self._run, n_pages)
        )

    def _run(self, n_pages: int, part: Any, kv_bytes: int | None) -> BatchedRunner:
        runner = paged_runner(part, kv_bytes, capture=Record(), n_pages=n_pages)
        assert isinstance(runner, BatchedRunner)
        assert isinstance(runner._backend, PagedBackend)
        self.stores.append(runner._backend)
        return runner

    @property
    def n_held(self) -> int:
        """Pages that sessions physically have."""
        pool = self.stores[0].pool
        pool.collect()
        return pool.total - pool.n_free

    def agrees(self) -> bool:
        """Sessions have no page that the accounting does not count as theirs."""
        return self.n_held <= self.engine.pages.used and self.engine.pages.check_consistency() is None

    async def cached(self, hidden_TD: torch.Tensor) -> EngineSession:
        """A session of these rows, whose first two blocks are cached as `a` and `b`."""
        session = self.engine.open()
        await self.engine.step(session, 0, hidden_TD)
        self.engine.close_and_cache(session, [b"a", b"b"])
        return session

    def alone(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        return self.part(hidden_TD, 0, self.part.new_cache())


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def close_to(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


async def test_the_accounting_counts_the_pages_of_the_pool(thread: DeviceThread, tiny_weights: Path) -> None:
    given = Given(thread, tiny_weights, 10)
    assert (given.engine.pages.total, given.engine.pages.page_size) == (10, PAGE_ROWS)
    session = given.engine.open()
    await given.engine.step(session, 0, rows(9))
    assert (given.engine.pages.used, given.n_held) == (3, 3)
    await given.engine.step(session, 2, rows(1))
    assert (given.engine.pages.used, given.n_held) == (3, 3)
    given.engine.close(session)
    assert (given.engine.pages.used, given.n_held) == (0, 0)


def test_memory_that_does_not_hold_two_pages_is_refused(thread: DeviceThread, tiny_weights: Path) -> None:
    with pytest.raises(NoRoom, match="100 bytes for keys and values do not hold a single page of 4 rows"):
        PagedBackend(KVLayout(((2, 8),) * 2, torch.float32, torch.device("cpu")), 100, KERNEL)
    with pytest.raises(NoRoom, match="a single page of 4 rows, and one page is the null page"):
        Given(thread, tiny_weights, 0)


async def test_a_session_that_begins_with_cached_rows_has_pages_of_its_own(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    given, hidden_TD = Given(thread, tiny_weights, 12), rows(11)
    first = await given.cached(hidden_TD)
    given.engine.close(first)  # as owners do in the end, whatever they did before
    assert given.n_held == given.engine.pages.used == 2  # not the three that it had
    second = given.engine.open(block_hashes=[b"a", b"b"])
    assert second.reached == 8
    close_to((await given.engine.step(second, 8, hidden_TD[8:])).output, given.alone(hidden_TD)[8:])
    assert given.n_held == 2 + 3
    given.engine.close(second)
    assert given.agrees()


async def test_cached_rows_that_were_evicted_before_they_were_copied_have_to_be_sent(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    given, hidden_TD = Given(thread, tiny_weights, 6), rows(9)
    admit_too_many(given.engine)
    await given.cached(hidden_TD)
    second = given.engine.open(block_hashes=[b"a", b"b"])
    # takes all that is left, and what was kept
    third = given.engine.open()
    await given.engine.step(third, 0, rows(16, seed=1))
    assert (second.reached, given.engine.n_cached_prefixes) == (8, 0)
    with pytest.raises(PositionNotReached, match="evicted for others: send everything again"):
        await given.engine.step(second, 8, hidden_TD[8:])
    assert (second.reached, second.lost_pages) == (0, True)
    with pytest.raises(PositionNotReached):
        await given.engine.step(second, 8, hidden_TD[8:])
    assert given.agrees()
    given.engine.close(third)
    close_to((await given.engine.step(second, 0, hidden_TD)).output, given.alone(hidden_TD))
    assert given.agrees()


async def test_an_idle_session_gives_its_pages_back(thread: DeviceThread, tiny_weights: Path) -> None:
    given = Given(thread, tiny_weights, 6)
    session, hidden_TD = given.engine.open(), rows(10)
    await given.engine.step(session, 0, hidden_TD)
    given.engine.expire(-1.0)
    assert given.n_held == 0
    close_to((await given.engine.step(session, 0, hidden_TD)).output, given.alone(hidden_TD))


async def test_sessions_that_come_go_and_lose_their_pages_never_have_more_than_they_should(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    given = Given(thread, tiny_weights, 18, max_cached_prefixes=3, max_num_seqs=6)
    engine, dice = given.engine, torch.Generator().manual_seed(0)
    seen = {"reused": 0, "lost": 0}
    # before the engine has the part: both at once would each have it attend in its own way
    expected = [given.alone(rows(20, seed=seed)) for seed in range(3)]

    async def one(number: int) -> None:
        hidden_TD = rows(20, seed=number % 3)
        names = [bytes([number % 3, block]) for block in range(5)]
        for turn in range(4):
            session = engine.open(20, block_hashes=names[:3])
            position = session.reached
            seen["reused"] += position > 0
            try:
                while position < 20:
                    count = int(torch.randint(1, 6, (1,), generator=dice))
                    step = await engine.step(session, position, hidden_TD[position : position + count])
                    close_to(step.output, expected[number % 3][position : position + count])
                    position = min(20, position + count)
            except PositionNotReached:
                seen["lost"] += 1
                await engine.step(session, 0, hidden_TD[:2])
            if turn % 2:
                engine.close_and_cache(session, names)
            else:
                engine.close(session)

    for number in range(3):
        await one(number)  # alone there is room for what is kept
        assert given.agrees()
    await asyncio.gather(*(one(number) for number in range(9)))
    assert given.agrees()
    assert min(seen.values()) > 0, seen


async def test_a_session_that_is_closed_in_its_step_leaves_nothing_behind(
    thread: DeviceThread, tiny_weights: Path
) -> None:
    given = Given(thread, tiny_weights, 8)
    leaving, staying = given.engine.open(), given.engine.open()
    await given.engine.step(leaving, 0, rows(3))
    waiting = asyncio.create_task(given.engine.step(leaving, 3, rows(9)))
    other = asyncio.create_task(given.engine.step(staying, 0, rows(6)))
    await asyncio.sleep(0)
    given.engine.close(leaving)
    close_to((await other).output, given.alone(rows(6)))
    with pytest.raises(SessionClosed):
        await waiting
    assert given.n_held == given.engine.pages.used == 2
