"""Bodies as an application gets them, from senders that a test has in its hand."""

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from starlette.types import Message, Receive, Scope, Send

from splitlearn_client.request_info import read_info
from splitlearn_client.serving import bodies
from splitlearn_client.serving.bodies import Bodies, BodyLimits
from splitlearn_client.serving.body_turns import SHORT, BodyTurns
from splitlearn_client.serving.json_size import MOST_VALUES, MostIds
from support.running_split import until

FREE = KIB64 = 2**16
LIMITS = BodyLimits(max_bytes=16 * KIB64, max_bytes_together=16 * KIB64, seconds=60.0)


class Service:
    """Reads a body, releases it once it is allowed to, and answers once it is allowed to do that."""

    def __init__(self, limits: BodyLimits = LIMITS) -> None:
        self.answers = asyncio.Event()
        self.answers.set()
        self.ends = asyncio.Event()
        self.ends.set()
        self.asked: list[int] = []
        self.n_released = 0
        self.bodies = Bodies(self._answer, limits)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        message = await receive()
        assert not message["more_body"]
        self.asked.append(len(message["body"]))
        await self.answers.wait()
        del message
        read_info(scope).release_body()
        self.n_released += 1
        await self.ends.wait()
        await send({"type": "http.response.start", "status": 200})
        await send({"type": "http.response.body", "body": b'{"error": {"code": null}}'})


class Sender:
    """Sends what it is told to, and hangs up when that is asked for in vain."""

    def __init__(self, service: Service, *pieces: int, ends: bool = True, length: int | None = None) -> None:
        self._pieces = list(pieces)
        self._ends = ends
        self._more = asyncio.Event()
        self.n_read = 0
        self.heard: list[Message] = []
        headers = [] if length is None else [(b"content-length", b"%d" % length)]
        scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        self.task = asyncio.create_task(service.bodies(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        while not self._pieces:
            self._more.clear()
            await self._more.wait()
        self.n_read += 1
        piece = self._pieces.pop(0)
        return {"type": "http.request", "body": b" " * piece, "more_body": bool(self._pieces) or not self._ends}

    async def _send(self, message: Message) -> None:
        self.heard.append(message)

    def send(self, n_bytes: int) -> None:
        self._pieces.append(n_bytes)
        self._more.set()

    async def end(self) -> tuple[int, str | None]:
        """Status and error code of its answer."""
        await self.task
        return self.heard[0]["status"], json.loads(self.heard[1]["body"])["error"]["code"]

    async def has_been_read(self) -> None:
        await until(lambda: bool(self.n_read) and not self._pieces)


@contextmanager
def lasting(*senders: Sender) -> Iterator[None]:
    try:
        yield
    finally:
        for sender in senders:
            sender.task.cancel()


async def test_a_body_comes_whole() -> None:
    service = Service()
    assert await Sender(service, 3, 0, 5).end() == (200, None)
    assert await Sender(service, *[KIB64] * 16).end() == (200, None)
    assert service.asked == [8, 16 * KIB64]


@pytest.mark.parametrize(("pieces", "length"), [([1], 16 * KIB64 + 1), ([KIB64] * 16 + [1], None)])
async def test_one_that_is_too_long_is_refused(pieces: list[int], length: int | None) -> None:
    service = Service()
    assert await Sender(service, *pieces, length=length).end() == (413, "request_too_large")
    assert not service.asked


class Caller:
    """Sends a whole body, and hangs up once it is told to."""

    def __init__(self, service: Service, body: bytes) -> None:
        self._body: bytes | None = body
        self.leaves = asyncio.Event()
        self.heard: list[Message] = []
        scope = {"type": "http", "method": "POST", "path": "/", "headers": []}
        self.task = asyncio.create_task(service.bodies(scope, self._receive, self._send))

    async def _receive(self) -> Message:
        if self._body is None:
            await self.leaves.wait()
            return {"type": "http.disconnect"}
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}

    async def _send(self, message: Message) -> None:
        self.heard.append(message)


@pytest.mark.parametrize(
    ("body", "most", "words"),
    [
        (b"[" + b"0," * MOST_VALUES + b"0]", None, "50000 values"),
        (b'{"prompt":[' + b"0," * 200_000 + b"0]}", 1024, "131072 token ids in its prompts"),
    ],
)
async def test_one_of_too_many_values_is_refused(body: bytes, most: int | None, words: str) -> None:
    service = Service(BodyLimits(len(body), len(body), 60.0, lambda: MostIds.of(most)))
    caller = Caller(service, body)
    await caller.task
    assert caller.heard[0]["status"] == 413
    assert words in caller.heard[1]["body"].decode()
    assert not service.asked


@pytest.fixture
def rests(monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
    """The ends of rests, which come when a test calls them."""
    found = list[Callable[[], None]]()
    monkeypatch.setattr(BodyTurns, "_rest", lambda turns, _began: found.append(turns._next))
    return found


LONG = b"[" + b"0," * 2 * SHORT + b"0]"


async def test_long_bodies_are_read_in_turns_and_short_ones_at_once(rests: list[Callable[[], None]]) -> None:
    service = Service()
    first, second, third = (Caller(service, LONG) for _ in range(3))
    await first.task
    await until(lambda: len(rests) == 1)
    short = Caller(service, b"[0]")
    await short.task
    assert service.asked == [len(LONG), 3]
    second.leaves.set()
    await second.task
    rests.pop()()
    await third.task
    # nobody reads what the second one has sent
    assert service.asked == [len(LONG), 3, len(LONG)]
    assert [caller.heard[0]["status"] for caller in (first, short, third)] == [200] * 3
    assert not second.heard


async def test_a_request_that_is_cancelled_before_its_turn_takes_none(rests: list[Callable[[], None]]) -> None:
    service = Service()
    first, second, third = (Caller(service, LONG) for _ in range(3))
    await first.task
    await until(lambda: len(rests) == 1)
    second.task.cancel()
    await asyncio.wait({second.task})
    rests.pop()()
    await third.task
    assert third.heard[0]["status"] == 200
    assert service.asked == [len(LONG)] * 2


async def test_one_that_does_not_come_in_time_is_refused() -> None:
    service = Service(BodyLimits(KIB64, KIB64, 0.05))
    assert await Sender(service, 3, ends=False).end() == (408, "request_timeout")


async def test_a_stalled_upload_is_dropped_for_one_that_needs_its_budget() -> None:
    service = Service(BodyLimits(16 * KIB64, 16 * KIB64, 2.0))
    stands = Sender(service, FREE + 15 * KIB64, ends=False)
    await stands.has_been_read()
    assert await Sender(service, *[KIB64] * 16).end() == (200, None)
    assert await stands.end() == (408, "request_timeout")
    assert b"the slowest" in stands.heard[1]["body"]
    assert service.asked == [16 * KIB64]


async def test_if_all_uploads_wait_the_slowest_is_dropped_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_STALL_SECONDS", 15.0)
    monkeypatch.setattr(bodies, "_PATIENCE_SECONDS", 15.0)
    service = Service(BodyLimits(16 * KIB64, 16 * KIB64, 60.0))
    slow = Sender(service, FREE + 8 * KIB64, ends=False)
    await slow.has_been_read()
    quick = Sender(service, FREE + 8 * KIB64 + 1)
    await quick.has_been_read()
    while not quick.task.done():
        slow.send(1)
        await asyncio.sleep(0.01)
    # it had not stood still for as long as an upload may
    assert await quick.end() == (200, None)
    assert await slow.end() == (408, "request_timeout")


async def test_a_body_that_waits_too_long_for_budget_gets_429(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_STALL_SECONDS", 60.0)
    service = Service(BodyLimits(16 * KIB64, 16 * KIB64, 400.0))
    stands = Sender(service, FREE + 8 * KIB64, ends=False)
    with lasting(stands):
        await stands.has_been_read()
        assert await Sender(service, FREE + 8 * KIB64 + 1).end() == (429, "too_busy")


async def test_freed_budget_goes_to_the_first_in_the_queue() -> None:
    service = Service()
    service.answers.clear()
    fills, moves = Sender(service, 16 * KIB64), Sender(service, FREE + KIB64, ends=False)
    await moves.has_been_read()
    waits = [Sender(service, 16 * KIB64) for _ in range(2)]
    for sender in waits:
        await sender.has_been_read()
    with lasting(moves):
        service.answers.set()
        assert [await sender.end() for sender in (fills, *waits)] == [(200, None)] * 3


async def test_no_body_overtakes_the_queue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_STALL_SECONDS", 60.0)
    monkeypatch.setattr(bodies, "_PATIENCE_SECONDS", 60.0)
    service = Service(BodyLimits(16 * KIB64, 2 * KIB64, 400.0))
    stands = Sender(service, FREE + KIB64, ends=False)
    await stands.has_been_read()
    first, second = FREE + KIB64 + 1, FREE + KIB64
    waiting = []
    for n_bytes in (first, second):
        waiting.append(Sender(service, n_bytes))
        await waiting[-1].has_been_read()
    stands.task.cancel()
    assert [await sender.end() for sender in waiting] == [(200, None)] * 2
    assert service.asked == [first, second]


async def test_no_body_waits_for_budget_that_only_answers_can_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bodies, "_PATIENCE_SECONDS", 30.0)
    service = Service()
    service.answers.clear()
    answered = Sender(service, 16 * KIB64)
    await answered.has_been_read()
    short, long = Sender(service, FREE), Sender(service, FREE + 2 * KIB64)
    assert await asyncio.wait_for(long.end(), 20) == (429, "too_busy")
    service.answers.set()
    assert await answered.end() == await short.end() == (200, None)


async def test_a_body_has_no_room_any_more_once_the_application_has_released_it() -> None:
    service = Service()
    service.ends.clear()
    first = Sender(service, 16 * KIB64)
    await until(lambda: service.n_released == 1)
    second = Sender(service, 16 * KIB64)
    with lasting(first, second):
        await until(lambda: service.n_released == 2)
        assert first.heard == second.heard == []
        service.ends.set()
        assert await first.end() == await second.end() == (200, None)


async def test_many_that_come_at_once_are_not_all_refused() -> None:
    service = Service()
    senders = [Sender(service, *[KIB64] * 16) for _ in range(6)]
    # all are read in turn, so that each has a part of the budget and none has enough
    ends = [await sender.end() for sender in senders]
    assert set(ends) <= {(200, None), (429, "too_busy")}
    assert (200, None) in ends
    assert await Sender(service, *[KIB64] * 16).end() == (200, None)


async def test_a_disconnected_sender_frees_its_budget() -> None:
    service = Service()
    gone = Sender(service, FREE + 15 * KIB64, ends=False)
    await gone.has_been_read()
    gone.task.cancel()
    assert await Sender(service, *[KIB64] * 16).end() == (200, None)
