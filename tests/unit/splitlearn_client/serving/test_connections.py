"""The watch over connections, against a transport that only notes what is done to it."""

import asyncio
import resource
from collections.abc import Callable
from typing import Any

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from splitlearn_client.errors import RequestError
from splitlearn_client.serving import connections
from splitlearn_client.serving.connections import Connection, ConnectionLimits, Connections, most_connections

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"


class Wire(asyncio.Transport):
    def __init__(self) -> None:
        super().__init__()
        self.sent = b""
        self.closed = False
        self.aborted = False
        self.reads = True
        self.unread = 0

    def get_write_buffer_size(self) -> int:
        return self.unread

    def write(self, data: Any) -> None:
        self.sent += bytes(data)

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        pass

    def close(self) -> None:
        self.closed = True

    def abort(self) -> None:
        self.closed = self.aborted = True

    def is_closing(self) -> bool:
        return self.closed

    def pause_reading(self) -> None:
        self.reads = False

    def resume_reading(self) -> None:
        self.reads = True


async def never(_scope: Scope, _receive: Receive, _send: Send) -> None:
    await asyncio.Event().wait()


class Strangers:
    """Connections of one service, and what it refused."""

    def __init__(self, most: int) -> None:
        self.refused: list[int] = []
        self.all = Connections(ConnectionLimits(most, 10.0, 20.0, 30.0), self._refuse)
        self._config = uvicorn.Config(never, http=self.all.protocol, log_config=None, lifespan="off", ws="none")  # type: ignore[arg-type]
        self._config.load()
        self._state = ServerState()

    def _refuse(self, error: RequestError) -> None:
        self.refused.append(error.status)

    def connect(self, sent: bytes = b"") -> tuple[Connection, Wire]:
        connection = self.all.protocol(config=self._config, server_state=self._state, app_state={})
        wire = Wire()
        connection.connection_made(wire)
        if sent and not wire.closed:
            connection.data_received(sent)
        return connection, wire

    async def end(self) -> None:
        for task in self._state.tasks:
            task.cancel()
        await asyncio.gather(*self._state.tasks, return_exceptions=True)


async def test_a_newcomer_takes_the_place_of_the_one_that_has_been_idle_longest() -> None:
    strangers = Strangers(most=3)
    busy, silent, begun = strangers.connect(GET)[1], strangers.connect()[1], strangers.connect(b"GET /")[1]
    fourth = strangers.connect()[1]
    assert [each.closed for each in (busy, silent, begun, fourth)] == [False, True, False, False]
    assert strangers.refused == []
    strangers.connect()
    assert begun.sent.startswith(b"HTTP/1.1 503 ")
    assert strangers.refused == [503]
    await strangers.end()


async def test_requests_with_stalled_bodies_are_ended_before_a_new_connection_is_refused() -> None:
    strangers = Strangers(most=3)
    begun = GET.replace(b"GET", b"POST")[:-2] + b"Content-Length: 9\r\n\r\n1"
    busy, (first, uploading), second = strangers.connect(GET)[1], strangers.connect(begun), strangers.connect(begun)[1]
    first.data_received(b"2")
    newcomer, wire = strangers.connect()
    assert second.sent.startswith(b"HTTP/1.1 503 ")
    assert not any(each.closed or each.sent for each in (busy, uploading, wire))
    # a body that has come whole is work, and whoever was answered or connected before others began waits its turn
    newcomer.data_received(begun)
    silent = strangers.connect()[1]
    assert first.transport.sent.startswith(b"HTTP/1.1 503 ")  # type: ignore[attr-defined]
    newcomer.data_received(b"23456789")
    strangers.connect()
    assert silent.closed
    assert not any(each.closed or each.sent for each in (busy, wire))
    await strangers.end()


async def test_where_all_are_busy_the_newcomer_is_refused() -> None:
    strangers = Strangers(most=2)
    busy = [strangers.connect(GET)[1] for _ in range(2)]
    newcomer = strangers.connect()[1]
    assert newcomer.sent.startswith(b"HTTP/1.1 503 ")
    assert b"retry-after: 1\r\n" in newcomer.sent
    assert not any(each.closed or each.sent for each in busy)
    await strangers.end()


@pytest.mark.parametrize(
    ("sent", "seconds", "ends"),
    [
        (b"", 29.0, False),
        (b"", 31.0, True),
        (b"GET /", 9.0, False),
        (b"GET /", 11.0, True),
        (GET, 10_000.0, False),
    ],
)
async def test_silent_and_half_begun_connections_end_and_busy_ones_do_not(
    sent: bytes, seconds: float, ends: bool
) -> None:
    strangers = Strangers(most=9)
    connection, wire = strangers.connect(sent)
    connection.look(asyncio.get_running_loop().time() + seconds)
    assert (wire.closed or bool(wire.sent)) == ends
    assert strangers.refused == ([408] if ends and sent else [])
    await strangers.end()


async def test_a_reader_without_progress_is_dropped() -> None:
    strangers = Strangers(most=9)
    connection, wire = strangers.connect(GET)
    now = asyncio.get_running_loop().time()
    connection.pause_writing()
    connection.look(now + 19.0)
    assert not wire.closed
    connection.resume_writing()
    connection.look(now + 21.0)
    assert not wire.closed
    connection.pause_writing()
    connection.look(now + 42.0)
    assert wire.closed
    await strangers.end()


async def test_a_closing_connection_that_nobody_reads_is_dropped() -> None:
    strangers = Strangers(most=9)
    connection, wire = strangers.connect(GET)
    wire.close()
    now = asyncio.get_running_loop().time()
    for seconds, is_dropped in ((0.0, False), (19.0, False), (21.0, True)):
        connection.look(now + seconds)
        assert wire.aborted == is_dropped
    await strangers.end()


async def test_an_idle_connection_whose_last_response_nobody_reads_is_dropped_and_not_waited_for() -> None:
    strangers = Strangers(most=2)
    (_, unread), (_, read) = strangers.connect(), strangers.connect()
    unread.unread = 1
    strangers.connect()
    strangers.connect()
    assert [unread.aborted, read.aborted, read.closed] == [True, False, True]
    await strangers.end()


async def test_none_is_left_at_the_end() -> None:
    strangers = Strangers(most=9)
    wires = [strangers.connect(sent)[1] for sent in (b"", b"GET /", GET, b"no request\r\n\r\n")]
    strangers.all.drop_all()
    assert all(wire.aborted for wire in wires)
    # asyncio had accepted this one, and tells its protocol only now
    assert strangers.connect()[1].aborted
    await strangers.end()


async def test_some_refused_connections_may_send_for_a_while() -> None:
    strangers = Strangers(most=999)
    refused = [strangers.connect(b"\0\r\n\r\n") for _ in range(connections._LINGERING + 1)]
    assert strangers.refused == [400] * len(refused)
    assert [wire.closed for _, wire in refused] == [False] * connections._LINGERING + [True]
    connection, wire = refused[0]
    now = asyncio.get_running_loop().time()
    for seconds, is_dropped in ((connections._LINGER_SECONDS - 1, False), (connections._LINGER_SECONDS + 1, True)):
        connection.look(now + seconds)
        assert wire.aborted == is_dropped
    await strangers.end()


async def test_much_that_is_read_at_once_is_parsed_in_turns() -> None:
    strangers = Strangers(most=9)
    chunks = b"1\r\nx\r\n" * 20_000
    connection, wire = strangers.connect(
        GET.replace(b"GET", b"POST")[:-2] + b"Transfer-Encoding: chunked\r\n\r\n" + chunks
    )
    assert len(connection.cycle.body) <= connections._TURN_BYTES // 6
    assert not wire.reads
    for _ in range(20):
        await asyncio.sleep(0)
    assert len(connection.cycle.body) == 20_000
    assert wire.reads
    await strangers.end()


@pytest.mark.parametrize(
    ("files", "most"),
    [(resource.RLIM_INFINITY, 4096), (1 << 20, 4096), (1024, 896), (100, 50), (3, 2)],
)
def test_connections_leave_files_for_the_rest_of_the_process(
    monkeypatch: pytest.MonkeyPatch, files: int, most: int
) -> None:
    limit: Callable[[int], tuple[int, int]] = lambda _: (files, files)  # noqa: E731
    monkeypatch.setattr(connections.resource, "getrlimit", limit)
    assert most_connections() == most
