import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from splitlearn_comm.loop_thread import loop_thread


async def current() -> threading.Thread:
    return threading.current_thread()


def test_all_threads_share_one_loop_on_a_thread_of_its_own() -> None:
    together = threading.Barrier(4)

    def ask(_: int) -> threading.Thread:
        together.wait(10)
        return loop_thread().run(current())

    with ThreadPoolExecutor(4) as pool:
        threads = {*pool.map(ask, range(8))}

    assert len(threads) == 1
    assert threading.current_thread() not in threads


def test_what_the_coroutine_raises_is_raised_here() -> None:
    async def failing() -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop_thread().run(failing())


def test_a_call_that_would_wait_for_itself_is_refused() -> None:
    loop = loop_thread()

    async def inside() -> None:
        loop.run(current())

    with pytest.raises(RuntimeError, match="waits for itself; use the async class"):
        loop.run(inside())


def test_it_may_be_called_where_another_loop_runs() -> None:
    async def outer() -> threading.Thread:
        return loop_thread().run(current())

    assert asyncio.run(outer()).name == "splitlearn-comm"
