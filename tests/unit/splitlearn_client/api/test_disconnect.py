import asyncio

import pytest
from starlette.requests import ClientDisconnect

from splitlearn_client.api.disconnect import unless_disconnected
from support.asgi import Line


async def test_work_that_ends_gives_its_result() -> None:
    async def work() -> int:
        return 5

    assert await unless_disconnected(Line().receive, work()) == 5


async def test_an_error_of_the_work_passes() -> None:
    async def work() -> int:
        raise KeyError("x")

    with pytest.raises(KeyError):
        await unless_disconnected(Line().receive, work())


async def test_work_has_ended_when_the_disconnect_is_raised() -> None:
    line, ended = Line(), asyncio.Event()

    async def work() -> None:
        try:
            line.hung_up.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.set()

    with pytest.raises(ClientDisconnect):
        await unless_disconnected(line.receive, work())
    assert ended.is_set()


async def test_a_cancelled_caller_takes_the_work_along() -> None:
    begun, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    caller = asyncio.create_task(unless_disconnected(Line().receive, work()))
    await begun.wait()
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    assert ended.is_set()
