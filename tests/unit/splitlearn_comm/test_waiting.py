"""A server that says that a frame waits, and a client that counts its seconds from there."""

import asyncio
import time

import pytest
import torch

from splitlearn_comm import waiting
from splitlearn_comm.core import SessionOpening
from splitlearn_comm.errors import Overloaded, TimedOut
from splitlearn_comm.frames import Frame, Reply
from splitlearn_comm.testing import EchoSession, EchoSessionHost, loopback
from support.running_split import until

TIMEOUT = 0.4
FRAME = Frame(0, torch.ones(1, 2))


class SlowSession(EchoSession):
    """Says a number of times that it gets on, and answers when it is let."""

    def __init__(self, opening: SessionOpening, words: int) -> None:
        super().__init__(opening, 2.0, {})
        self.words = words
        self.free = asyncio.Event()

    def gets_on(self) -> bool:
        self.words -= 1
        if self.words == 0:
            self.free.set()
        return self.words >= 0

    async def step(self, frame: Frame) -> Reply:
        await self.free.wait()
        return await super().step(frame)


class AskingSession(SlowSession):
    """Asks somebody else before it can reply to its opening."""

    async def begin(self) -> None:
        await self.free.wait()


class AskingHost(EchoSessionHost):
    def __init__(self, words: int) -> None:
        super().__init__()
        self._words = words

    async def open(self, opening: SessionOpening) -> AskingSession:
        return AskingSession(opening, self._words)


class RefusingSession(SlowSession):
    """Answers with an error."""

    async def step(self, frame: Frame) -> Reply:
        await self.free.wait()
        raise Overloaded("another time")


class SlowHost(EchoSessionHost):
    def __init__(self, words: int, kind: type[SlowSession] = SlowSession) -> None:
        super().__init__()
        self._words = words
        self._kind = kind

    async def open(self, opening: SessionOpening) -> SlowSession:
        session = self._kind(opening, self._words)
        self.sessions.append(session)
        return session


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting, "SECONDS", TIMEOUT / 8)


async def test_a_frame_that_waits_longer_than_the_timeout_is_answered() -> None:
    async with (
        loopback(session_host=SlowHost(words=24), timeout=TIMEOUT) as (_, client),
        client.stream(SessionOpening("one", "echo", 8)) as stream,
    ):
        # several frames ahead: those behind the first wait to be taken
        for i in range(3):
            await stream.send(Frame(i, torch.ones(1, 2)))
        for i in range(3):
            assert (await stream.receive()).frame.position == i


@pytest.mark.parametrize("words", [1, 2, 3])
async def test_a_refusal_reaches_a_client_that_is_just_being_told_to_wait(words: int) -> None:
    async with loopback(session_host=SlowHost(words, RefusingSession), timeout=60.0) as (_, client):
        stream = client.stream(SessionOpening("one", "echo", 8))
        async with asyncio.timeout(20):
            for _ in range(2):
                with pytest.raises(Overloaded, match="another time"):
                    await stream.step(FRAME)
        stream.cancel()
        await stream.wait_ended()


async def test_an_opening_that_waits_longer_than_the_timeout_is_answered() -> None:
    async with (
        loopback(session_host=AskingHost(words=24), timeout=TIMEOUT) as (_, client),
        client.stream(SessionOpening("one", "echo", 8, asks_first=True)) as stream,
    ):
        assert await stream.open() == 0
        assert (await stream.step(FRAME)).frame.position == 0


async def test_a_server_that_says_nothing_of_an_opening_is_given_up() -> None:
    async with loopback(session_host=AskingHost(words=-1), timeout=TIMEOUT) as (_, client):
        stream = client.stream(SessionOpening("one", "echo", 8, asks_first=True))
        with pytest.raises(TimedOut, match=r"did not answer within 0\.4 s"):
            await stream.open()


async def test_a_server_that_says_nothing_is_given_up() -> None:
    async with loopback(session_host=SlowHost(words=-1), timeout=TIMEOUT) as (_, client):
        stream = client.stream(SessionOpening("one", "echo", 8))
        with pytest.raises(TimedOut, match=r"did not reply within 0\.4 s"):
            await stream.step(FRAME)


@pytest.mark.parametrize("n_stalls", [1, 4])
async def test_time_in_which_this_process_did_not_run_is_no_silence_of_the_server(n_stalls: int) -> None:
    """Neither one long stall nor some short ones: what the server said meanwhile waits to be read."""
    host = SlowHost(words=-1)
    async with loopback(session_host=host, timeout=TIMEOUT) as (_, client):
        stream = client.stream(SessionOpening("one", "echo", 8))
        asking = asyncio.create_task(stream.step(FRAME))
        await until(lambda: bool(host.sessions))
        session = host.sessions[0]
        assert isinstance(session, SlowSession)
        for _ in range(n_stalls):
            time.sleep(2 * TIMEOUT / n_stalls)  # noqa: ASYNC251 - nobody gets on
            await asyncio.sleep(TIMEOUT / 40)
        session.free.set()
        assert (await asking).frame.position == 0


async def test_who_leaves_meanwhile_leaves_nothing_behind() -> None:
    async with loopback(session_host=SlowHost(words=1000)) as (_, client):
        stream = client.stream(SessionOpening("one", "echo", 8))
        asking = asyncio.create_task(stream.step(FRAME))
        await asyncio.sleep(TIMEOUT / 2)
        asking.cancel()
        await asyncio.wait({asking})
        stream.cancel()
    left = [task for task in asyncio.all_tasks() if "_tell" in repr(task.get_coro())]
    if left:
        await asyncio.wait(left, timeout=5)
    assert all(task.done() for task in left)
