import asyncio
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

import pytest
from starlette.requests import ClientDisconnect
from starlette.types import Scope

from splitlearn_client.api import event_stream as module
from splitlearn_client.api.event_stream import event_stream
from splitlearn_client.errors import TooBusy
from splitlearn_client.request_info import read_info
from support.asgi import Line

PING = b": ping\n\n"


@dataclass
class Events:
    """A source of two events that says whether it was closed. `first` and `last` hold the events back until set."""

    error: Exception | None = None
    first: asyncio.Event = field(default_factory=asyncio.Event)
    last: asyncio.Event = field(default_factory=asyncio.Event)
    waiting: asyncio.Event = field(default_factory=asyncio.Event)
    closed: bool = False

    async def __call__(self) -> AsyncGenerator[str]:
        try:
            await self.first.wait()
            if self.error is not None:
                raise self.error
            yield "1"
            self.waiting.set()
            await self.last.wait()
            yield "2"
        finally:
            self.closed = True


async def respond(line: Line, events: Events) -> None:
    response = await event_stream(line.receive, events())
    await response({"type": "http", "path": "/", "headers": []}, line.receive, line.send)


async def until_sent(line: Line, data: bytes) -> None:
    await line.until(lambda: data in line.body)


@pytest.fixture
def line() -> Line:
    return Line()


@pytest.fixture
def events() -> Events:
    return Events()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STATUS_SECONDS", 0.01)
    monkeypatch.setattr(module, "PING_SECONDS", 0.01)


async def test_a_stream_sends_every_event_and_then_the_end(line: Line, events: Events) -> None:
    events.first.set()
    events.last.set()
    await respond(line, events)
    assert line.body == b"12"
    assert (b"content-type", b"text/event-stream; charset=utf-8") in line.sent[0]["headers"]
    assert line.sent[-1]["more_body"] is False
    assert events.closed


async def test_an_error_before_the_first_event_can_still_set_the_status(line: Line) -> None:
    events = Events(TooBusy("full", retry_after=1.0))
    events.first.set()
    with pytest.raises(TooBusy):
        await respond(line, events)
    assert line.sent == []
    assert events.closed


@pytest.mark.usefixtures("impatient")
async def test_while_there_is_no_event_comments_keep_the_connection_alive(line: Line, events: Events) -> None:
    responding = asyncio.create_task(respond(line, events))
    await until_sent(line, PING * 2)
    assert line.sent[0]["status"] == 200
    events.first.set()
    await until_sent(line, b"1")
    await until_sent(line, b"1" + PING)
    events.last.set()
    await responding
    assert line.body.replace(PING, b"") == b"12"
    assert line.sent[-1]["more_body"] is False
    assert events.closed


@pytest.mark.usefixtures("impatient")
async def test_an_error_after_the_status_line_is_an_event(line: Line) -> None:
    events = Events(TooBusy("full", retry_after=1.0))
    responding = asyncio.create_task(respond(line, events))
    await until_sent(line, PING)
    events.first.set()
    await responding
    assert b'"message":"full"' in line.body.replace(PING, b"")
    assert line.sent[-1]["more_body"] is False
    assert events.closed


@pytest.mark.usefixtures("impatient")
async def test_an_error_is_told_as_the_stream_would_have_it(line: Line) -> None:
    events = Events(TooBusy("full", retry_after=1.0))
    response = await event_stream(line.receive, events())
    scope: Scope = {"type": "http", "path": "/", "headers": []}
    read_info(scope).told_in_stream = lambda body: {"type": "failed", "code": body["error"]["code"]}
    events.first.set()
    await response(scope, line.receive, line.send)
    assert line.body.endswith(b'event: failed\ndata: {"type":"failed","code":"too_busy"}\n\n')


def test_an_event_has_the_name_of_its_type_if_it_has_one() -> None:
    assert module.event({"a": "ü"}) == 'data: {"a":"ü"}\n\n'
    assert module.event({"type": "a.b"}) == 'event: a.b\ndata: {"type":"a.b"}\n\n'


async def test_a_client_that_leaves_before_the_first_event_closes_the_source(line: Line, events: Events) -> None:
    line.hung_up.set()
    with pytest.raises(ClientDisconnect):
        await respond(line, events)
    assert events.closed


@pytest.mark.usefixtures("impatient")
async def test_a_client_that_leaves_between_the_status_line_and_the_first_event_closes_the_source(
    line: Line, events: Events
) -> None:
    responding = asyncio.create_task(respond(line, events))
    await until_sent(line, PING)
    line.hung_up.set()
    await responding
    assert events.closed


async def test_a_cancelled_request_closes_the_source_that_has_sent_nothing(line: Line, events: Events) -> None:
    responding = asyncio.create_task(respond(line, events))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    responding.cancel()
    with pytest.raises(asyncio.CancelledError):
        await responding
    assert events.closed


async def test_a_request_that_is_cancelled_again_while_the_first_event_ends_still_closes_the_source(line: Line) -> None:
    begun, ending, may_end, closed = (asyncio.Event() for _ in range(4))

    async def source() -> AsyncGenerator[str]:
        try:
            begun.set()
            try:
                await asyncio.Event().wait()
            finally:
                ending.set()
                await may_end.wait()
            yield "1"
        finally:
            closed.set()

    responding = asyncio.create_task(event_stream(line.receive, source()))
    await begun.wait()
    responding.cancel()
    await ending.wait()
    responding.cancel()
    await asyncio.sleep(0)
    may_end.set()
    with pytest.raises(asyncio.CancelledError):
        await responding
    assert closed.is_set()


async def test_a_client_that_leaves_closes_the_source(line: Line, events: Events) -> None:
    events.first.set()
    responding = asyncio.create_task(respond(line, events))
    await events.waiting.wait()
    line.hung_up.set()
    await responding
    assert events.closed


async def test_a_client_that_takes_nothing_more_and_leaves_closes_the_source(line: Line, events: Events) -> None:
    line.stuck = True
    events.first.set()
    responding = asyncio.create_task(respond(line, events))
    await line.until(lambda: bool(line.sent))
    line.hung_up.set()
    await responding
    assert events.closed
