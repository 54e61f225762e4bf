import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from splitlearn_client.request_info import read_info
from splitlearn_client.serving.draining import Draining
from support.running_split import until


class Caller:
    """Sends a request to the service, and goes on sending its body until it is told to stop."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.stops = asyncio.Event()

    async def receive(self) -> Message:
        await self.stops.wait()
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(self, message: Message) -> None:
        self.heard.append(message)


def ignored(*, was_cut_off: bool) -> None:
    pass


@asynccontextmanager
async def asked(draining: Draining, caller: Caller, begun: asyncio.Event) -> AsyncIterator["asyncio.Task[None]"]:
    scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
    asking = asyncio.create_task(draining(scope, caller.receive, caller.send))
    await begun.wait()
    yield asking
    await asking


def never_answers(begun: asyncio.Event, put_away: asyncio.Event | None = None) -> ASGIApp:
    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set()
        try:
            await asyncio.Event().wait()
        finally:
            if put_away is not None:
                await put_away.wait()

    return application


async def test_what_still_puts_away_what_it_holds_can_be_dropped_again() -> None:
    begun, put_away, caller = asyncio.Event(), asyncio.Event(), Caller()
    draining = Draining(never_answers(begun, put_away), ignored)
    async with asked(draining, caller, begun):
        finishing = asyncio.create_task(draining.finish(0.0))
        # the end of the shutdown timeout, then a second signal
        await asyncio.wait({finishing}, timeout=0.05)
        draining.drop()
        assert not finishing.done()
        put_away.set()
        await finishing
    assert not caller.heard


async def test_the_end_waits_until_sending_callers_have_got_the_error() -> None:
    begun, caller = asyncio.Event(), Caller()
    cut_off: list[bool] = []
    draining = Draining(never_answers(begun), lambda *, was_cut_off: cut_off.append(was_cut_off))
    async with asked(draining, caller, begun) as asking:
        finishing = asyncio.create_task(draining.finish(0.0))
        await asyncio.wait({finishing, asking}, return_when=asyncio.FIRST_COMPLETED)
        assert caller.heard[0]["status"] == 503
        assert not caller.heard[-1].get("more_body", False)
        await finishing
    assert cut_off == [True]


async def test_a_request_that_ends_within_the_timeout_is_counted_as_ended_and_a_probe_not_at_all() -> None:
    begun, caller, over = asyncio.Event(), Caller(), asyncio.Event()
    cut_off: list[bool] = []

    async def application(_scope: Scope, _receive: Receive, _send: Send) -> None:
        begun.set()
        await over.wait()

    draining = Draining(application, lambda *, was_cut_off: cut_off.append(was_cut_off))
    async with asked(draining, caller, begun):
        finishing = asyncio.create_task(draining.finish(60.0))
        await until(lambda: draining._begun)
        over.set()
        await draining({"type": "http", "method": "GET", "path": "/metrics"}, caller.receive, caller.send)
    await finishing
    assert cut_off == [False]


@pytest.mark.parametrize(
    ("path", "event"),
    [
        ("/v1/chat/completions", 'data: {"error":{"message":'),
        ("/v1/messages", 'event: error\ndata: {"type":"error","error":{"message":'),
        ("/v1/told", 'event: told\ndata: {"type":"told","code":"shutting_down"}\n\n'),
    ],
)
async def test_a_stream_that_is_cut_off_ends_with_an_error_as_its_clients_expect_it(path: str, event: str) -> None:
    begun, caller = asyncio.Event(), Caller()

    async def application(scope: Scope, _receive: Receive, send: Send) -> None:
        if path == "/v1/told":
            read_info(scope).told_in_stream = lambda body: {"type": "told", "code": body["error"]["code"]}
        headers = [(b"content-type", b"text/event-stream")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        begun.set()
        await asyncio.Event().wait()

    draining = Draining(application, ignored)
    scope = {"type": "http", "method": "POST", "path": path, "headers": []}
    asking = asyncio.create_task(draining(scope, caller.receive, caller.send))
    await begun.wait()
    await draining.finish(0.0)
    await asking
    assert caller.heard[-1]["body"].decode().startswith(event)
