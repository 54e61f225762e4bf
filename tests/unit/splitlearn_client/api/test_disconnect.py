"""The ASGI side by hand: what the server would call, with full say over when the client hangs up."""

import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field
from typing import Any

import pytest
from starlette.requests import ClientDisconnect

from splitlearn_client.api.disconnect import EventStream, unless_disconnected

Message = dict[str, Any]


@dataclass
class Line:
    """A client's connection: `hang_up` ends it, `stuck` makes it take nothing more."""

    sent: list[Message] = field(default_factory=list)
    hung_up: asyncio.Event = field(default_factory=asyncio.Event)
    stuck: bool = False

    async def receive(self) -> Message:
        await self.hung_up.wait()
        return {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.sent.append(message)
        if self.stuck:
            await asyncio.Event().wait()

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.sent)


@dataclass
class Events:
    """A source of events that says whether it was closed."""

    endless: bool = False
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    async def __call__(self) -> AsyncGenerator[str]:
        try:
            yield "1"
            yield "2"
            self.waiting.set()
            if self.endless:
                await asyncio.Event().wait()
        finally:
            self.closed = True


async def respond(line: Line, events: Events) -> "asyncio.Task[None]":
    source = events()
    response = EventStream(await anext(source), source)
    return asyncio.create_task(response({"type": "http"}, line.receive, line.send))


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


async def test_a_stream_sends_every_event_and_then_the_end() -> None:
    line, events = Line(), Events()
    await (await respond(line, events))
    assert line.body == b"12"
    assert (b"content-type", b"text/event-stream; charset=utf-8") in line.sent[0]["headers"]
    assert line.sent[-1]["more_body"] is False
    assert events.closed


async def test_a_stream_whose_client_leaves_closes_its_source() -> None:
    line, events = Line(), Events(endless=True)
    responding = await respond(line, events)
    await events.waiting.wait()
    line.hung_up.set()
    await responding
    assert events.closed


async def test_a_stream_whose_client_takes_nothing_more_and_leaves_closes_its_source() -> None:
    line, events = Line(stuck=True), Events(endless=True)
    responding = await respond(line, events)
    line.hung_up.set()
    await responding
    assert events.closed
