"""What one session brings, or what fails around it, is told to whom it concerns, and the others get their rows.

Shapes: T rows, D hidden size.
"""

import asyncio
import logging
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_part
from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.engine.arrivals import ArrivalEstimator
from splitlearn.errors import BadRows, PositionNotReached, SessionClosed
from splitlearn.model.part import Part
from support.poison import poisoned_runner
from support.tiny_models import VOCABULARY

D = 64
BAD = 99.0


class Broken(Exception):
    pass


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


@pytest.fixture
def part(tiny_weights: Path) -> Part:
    return load_part(tiny_weights, "1-4")


@pytest.fixture
def engine(part: Part, thread: DeviceThread) -> Engine:
    return build_engine(part, thread, Limits(max_num_batched_tokens=16, block_size=4), runner=poisoned_runner)


@pytest.fixture
def bottom(thread: DeviceThread, tiny_weights: Path) -> Engine:
    return build_engine(load_part(tiny_weights, "b 0-2"), thread, runner=poisoned_runner)


def rows(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def fail_when(part: Part, condition: Callable[[torch.Tensor], bool], error: Exception) -> Any:
    """Lets the last layer fail, behind others that have placed rows, when what entered the first is so."""
    layers, failing = part.model.get_submodule(part.layout.layers), [False]

    def look(_: Any, args: tuple[torch.Tensor, ...]) -> None:
        failing[0] = condition(args[0][0])

    def fail(*_: Any) -> None:
        if failing[0]:
            raise error

    return layers[0].register_forward_pre_hook(look), layers[-1].register_forward_pre_hook(fail)


async def close_to_alone(engine: Engine, found: Any, hidden_TD: torch.Tensor, position: int = 0) -> None:
    expected = (await engine.step(engine.open(), 0, hidden_TD)).output[position:]
    torch.testing.assert_close(found.output, expected, atol=1e-5, rtol=0)


async def turns_until(condition: Callable[[], Any]) -> None:
    """Of the event loop."""
    for _ in range(100):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("not so after many turns of the loop")


async def test_a_caller_who_leaves_as_the_step_ends_takes_nobody_along(engine: Engine, thread: DeviceThread) -> None:
    leaving: list[asyncio.Task[Any]] = []
    run = thread.run

    def runs(*args: Any) -> Any:
        running = run(*args)
        running.add_done_callback(lambda _: leaving[0].cancel())
        return running

    a, b = engine.open(), engine.open()
    engine._serving._thread.run = runs  # type: ignore[method-assign]
    try:
        leaving.append(asyncio.create_task(engine.step(a, 0, rows(3))))
        staying = asyncio.create_task(engine.step(b, 0, rows(5, 1)))
        await asyncio.wait({leaving[0]})
        await asyncio.wait_for(staying, 10)
    finally:
        del engine._serving._thread.run
    assert leaving[0].cancelled()
    await close_to_alone(engine, staying.result(), rows(5, 1))
    assert a.reached in (0, 3)
    await close_to_alone(engine, await engine.step(a, 0, rows(4)), rows(4))


@pytest.mark.parametrize("id_", [VOCABULARY, -1, 2**40, -(2**63)])
async def test_an_id_that_the_table_lacks_is_refused_for_its_session_alone(bottom: Engine, id_: int) -> None:
    sessions = [bottom.open() for _ in range(4)]
    ids = [torch.arange(3, 9) + i for i in range(4)]
    ids[2] = torch.cat([ids[2], torch.tensor([id_])])
    asked = (bottom.step(session, 0, own) for session, own in zip(sessions, ids, strict=True))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[2], BadRows)
    assert f"token id {id_} does not exist" in str(found[2])
    assert f"the embedding table has {VOCABULARY} rows" in str(found[2])
    for i in (0, 1, 3):
        await close_to_alone(bottom, found[i], ids[i])
    await close_to_alone(bottom, await bottom.step(sessions[2], 0, ids[0]), ids[0])


@pytest.mark.parametrize(
    "ids", [torch.ones(3), torch.ones(1, 3, dtype=torch.int64), torch.tensor(3), torch.ones(3) > 0]
)
async def test_what_are_no_ids_are_refused_before_anything_runs(bottom: Engine, ids: torch.Tensor) -> None:
    with pytest.raises(BadRows):
        await bottom.step(bottom.open(), 0, ids)


async def test_a_forward_that_fails_for_one_is_run_again_for_the_others(engine: Engine, part: Part) -> None:
    sessions = [engine.open() for _ in range(5)]
    held = [rows(6, i) for i in range(5)]
    for session, own in zip(sessions, held, strict=True):
        await engine.step(session, 0, own)
    bad = rows(1, 20)
    bad[:] = BAD
    hooks = fail_when(part, lambda entered_TD: bool((entered_TD == BAD).all(1).any()), Broken("kernel"))
    # one decodes, one goes back, one brings a prompt of several slices, one fails, one decodes
    asked = [(6, rows(1, 10)), (2, rows(3, 11)), (6, rows(40, 12)), (6, bad), (6, rows(1, 14))]
    steps = (engine.step(session, *what) for session, what in zip(sessions, asked, strict=True))
    found = await asyncio.gather(*steps, return_exceptions=True)
    for hook in hooks:
        hook.remove()
    assert isinstance(found[3], Broken)
    assert [session.reached for session in sessions] == [7, 5, 46, 6, 7]
    for i in (0, 1, 2, 4):
        position, new = asked[i]
        await close_to_alone(engine, found[i], torch.cat([held[i][:position], new]), position)
    again = await engine.step(sessions[3], 6, rows(2, 13))
    await close_to_alone(engine, again, torch.cat([held[3], rows(2, 13)]), 6)


async def test_what_is_too_much_at_once_is_done_in_pieces(engine: Engine, part: Part) -> None:
    fail_when(part, lambda entered_TD: entered_TD.shape[0] > 5, torch.OutOfMemoryError("no memory"))
    sessions = [engine.open() for _ in range(7)]
    asked = (engine.step(session, 0, rows(2, i)) for i, session in enumerate(sessions))
    for i, found in enumerate(await asyncio.gather(*asked)):
        await close_to_alone(engine, found, rows(2, i))


async def test_when_the_device_is_broken_all_requests_fail_once_and_later_ones_are_served(
    engine: Engine, part: Part
) -> None:
    entered: list[int] = []
    hooks = fail_when(part, lambda entered_TD: entered.append(1) is None, Broken("device"))
    sessions = [engine.open() for _ in range(8)]
    asked = (engine.step(session, 0, rows(2, i)) for i, session in enumerate(sessions))
    found = await asyncio.wait_for(asyncio.gather(*asked, return_exceptions=True), 20)
    assert [type(each) for each in found] == [Broken] * 8
    assert len(entered) <= 2 * 8
    for hook in hooks:
        hook.remove()
    await close_to_alone(engine, await engine.step(sessions[0], 0, rows(2)), rows(2))


@pytest.mark.parametrize("error", [StopIteration(), ZeroDivisionError(), asyncio.InvalidStateError()])
async def test_an_error_of_postprocess_fails_its_session_alone(engine: Engine, error: Exception) -> None:
    def postprocess(_: torch.Tensor) -> None:
        raise error

    session, other = engine.open(), engine.open()
    asked = (engine.step(session, 0, rows(3), postprocess), engine.step(other, 0, rows(3)))
    found = await asyncio.gather(*asked, return_exceptions=True)
    assert isinstance(found[0], RuntimeError if isinstance(error, StopIteration) else type(error))
    await close_to_alone(engine, found[1], rows(3))


async def test_requests_that_wait_for_a_thread_that_is_closed_fail(part: Part) -> None:
    thread, over = DeviceThread(), threading.Event()
    engine = build_engine(part, thread)
    session, other = engine.open(), engine.open()
    blocking = thread.run(over.wait)
    waiting = [asyncio.create_task(engine.step(session, 0, rows(3)))]
    await asyncio.sleep(0)
    closing = threading.Thread(target=thread.close)
    closing.start()
    over.set()
    await asyncio.wait_for(asyncio.gather(*waiting, blocking, return_exceptions=True), 10)
    closing.join()
    assert isinstance(waiting[0].exception(), RuntimeError)
    with pytest.raises(RuntimeError):
        await asyncio.wait_for(engine.step(other, 0, rows(3)), 10)


async def test_an_engine_whose_task_is_cancelled_before_it_begins_serves_all_the_same(engine: Engine) -> None:
    asking = asyncio.create_task(engine.step(engine.open(), 0, rows(3)))
    await turns_until(lambda: engine._serving._task is not None)
    engine._serving._task.cancel()
    await close_to_alone(engine, await asyncio.wait_for(asking, 10), rows(3))


async def test_a_request_behind_one_that_is_cancelled_is_admitted(part: Part, thread: DeviceThread) -> None:
    row_bytes = build_engine(part, thread).row_bytes
    engine = build_engine(part, thread, Limits(kv_cache_memory_bytes=4 * 32 * row_bytes, headroom=0))
    first, second, third = (engine.open(max_length) for max_length in (40, 90, 30))
    await engine.step(first, 0, rows(40))
    waiting = [asyncio.create_task(engine.step(*what)) for what in ((second, 0, rows(90)), (third, 0, rows(30)))]
    await turns_until(lambda: engine.n_waiting == 2)
    waiting[0].cancel()
    await asyncio.wait_for(waiting[1], 10)
    assert second.reached == 0


async def test_pages_of_an_idle_session_without_rows_go_to_waiting_ones(part: Part, thread: DeviceThread) -> None:
    row_bytes = build_engine(part, thread).row_bytes
    engine = build_engine(part, thread, Limits(kv_cache_memory_bytes=4 * 32 * row_bytes, headroom=0))
    idle, waiting = engine.open(), engine.open()
    await engine.step(idle, 0, rows(60))
    await engine.step(idle, 0, rows(0))
    asking = asyncio.create_task(engine.step(waiting, 0, rows(90)))
    await turns_until(lambda: engine.n_waiting)
    assert idle.reached == 0
    engine.expire(-1.0)
    await asyncio.wait_for(asking, 10)


async def test_a_session_that_has_ended_answers_nothing(engine: Engine) -> None:
    kept, closed = engine.open(), engine.open()
    for session in (kept, closed):
        await engine.step(session, 0, rows(8))
    engine.close_and_cache(kept, [b"a", b"b"])
    engine.close(closed)
    for session in (kept, closed):
        for position, new in ((8, rows(1)), (0, rows(1)), (4, rows(0))):
            with pytest.raises(SessionClosed):
                await engine.step(session, position, new)
        with pytest.raises(SessionClosed):
            engine.close_and_cache(session, [b"a", b"b"])
        engine.close(session)
        assert session.kv is None
    assert (engine.n_cached_prefixes, engine.pages.used) == (1, 1)


async def test_forged_hashes_give_no_rows_of_others(engine: Engine) -> None:
    """One block is kept under a name, and a session asks for it as its second."""
    victim, owner = engine.open(), engine.open()
    await engine.step(owner, 0, rows(4))
    engine.close_and_cache(owner, [b"b", b"not whole", b"nor this"])
    await engine.step(victim, 0, rows(60, 1))
    engine.close(victim)
    for names in ([b"x", b"b"], [b"x"] * 5 + [b"b"]):
        session = engine.open(block_hashes=names)
        assert session.reached == 0
        with pytest.raises(PositionNotReached):
            await engine.step(session, 4, rows(1))
    session = engine.open(block_hashes=[b"b", b"not whole"])
    assert session.reached == 4
    found = await engine.step(session, 4, rows(5)[4:])
    await close_to_alone(engine, found, rows(5), 4)


async def test_a_session_of_another_engine_is_not_taken_for_ones_own(engine: Engine, bottom: Engine) -> None:
    engine.open()
    with pytest.raises(SessionClosed):
        await engine.step(bottom.open(), 0, rows(1))


async def test_a_session_takes_one_step_at_a_time(engine: Engine) -> None:
    session = engine.open()
    first = asyncio.create_task(engine.step(session, 0, rows(3)))
    await asyncio.sleep(0)
    for new in (rows(1), rows(0)):
        with pytest.raises(ValueError, match="one step at a time"):
            await engine.step(session, 0, new)
    await close_to_alone(engine, await first, rows(3))


async def test_pages_that_do_not_add_up_are_an_error_in_the_log(
    engine: Engine, caplog: pytest.LogCaptureFixture
) -> None:
    engine.pages.used += 1
    with caplog.at_level(logging.ERROR):
        await engine.step(engine.open(), 0, rows(3))
        await asyncio.sleep(0)
    assert "the pages do not add up" in caplog.text


async def test_other_threads_read_numbers_and_make_engines_while_this_one_works(
    engine: Engine, thread: DeviceThread, tiny_weights: Path
) -> None:
    over, failed = threading.Event(), list[BaseException]()

    def read() -> None:
        try:
            while not over.is_set():
                assert engine.n_waiting + engine.pages.used + engine.pages.total + engine.n_cached_prefixes > 0
        except BaseException as error:  # noqa: BLE001 - looked at below
            failed.append(error)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()

    async def user(number: int) -> None:
        for turn in range(3):
            session = engine.open(block_hashes=[b"a", bytes([number])])
            await engine.step(session, session.reached, rows(12)[session.reached :])
            engine.close_and_cache(session, [b"a", bytes([number]), bytes([turn])])

    def make() -> Engine:
        return build_engine(load_part(tiny_weights, "2-3"), thread)

    made = thread.run(make)
    await asyncio.gather(*(user(i) for i in range(8)))
    over.set()
    for reader in readers:
        reader.join()
    assert not failed
    await (await made)[0].step((await made)[0].open(), 0, rows(1))


async def test_an_engine_is_not_used_on_another_thread_while_it_serves(engine: Engine) -> None:
    session, caught = engine.open(), list[BaseException]()

    def postprocess(_: torch.Tensor) -> None:
        uses: list[Callable[[], Any]] = [engine.open, lambda: engine.close(session), lambda: engine.expire(-1.0)]
        for use in uses:
            with pytest.raises(RuntimeError, match="on the thread of its event loop") as info:
                use()
            caught.append(info.value)

    await engine.step(session, 0, rows(3), postprocess)
    assert len(caught) == 3
    assert session.reached == 3


def test_threads_may_watch_while_another_looks_when_the_device_is_due() -> None:
    with DeviceThread() as thread:
        over, alive = threading.Event(), list[ArrivalEstimator]()

        def add() -> None:
            while not over.is_set():
                alive.append(ArrivalEstimator())
                thread.watch(alive[-1])
                del alive[:-3]

        adding = threading.Thread(target=add)
        adding.start()
        for _ in range(20_000):
            assert thread.next_due(0.0) is None
        over.set()
        adding.join()
        assert len(thread._estimators) < 20
