"""What grpc takes from a connection before anybody reads it, seen by a peer that speaks HTTP/2 itself."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import pytest
import torch

from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, Overloaded, admission, wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.admission import Admission, ServerLimits
from splitlearn_comm.core import NoObserver, Session, SessionOpening
from splitlearn_comm.errors import InvalidRequest
from splitlearn_comm.frames import Frame, Reply
from splitlearn_comm.heap import HeapTrimmer
from splitlearn_comm.options import UNREAD_BYTES
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.session_calls import SessionCalls
from splitlearn_comm.testing import EchoSession, EchoSessionHost

LIMIT: Final = 4 * 2**20
DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK: Final = 1
INITIAL_WINDOW_SIZE: Final = 4


@dataclass
class RawPeer:
    """One connection with one stream on it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    window: int = 65_535
    received: bytes = b""
    settings_sent: int = 0
    settled_once: asyncio.Condition = field(default_factory=asyncio.Condition)
    settings_acknowledged: int = 0
    ended: asyncio.Event = field(default_factory=asyncio.Event)

    def send(self, kind: int, payload: bytes, *, flags: int = 0, stream: int = 1) -> None:
        self.writer.write(struct.pack(">I", len(payload))[1:] + bytes((kind, flags)) + struct.pack(">I", stream))
        self.writer.write(payload)

    def open(self, **headers: str) -> None:
        fields = {
            ":method": "POST",
            ":scheme": "http",
            ":path": f"/{wire.SERVICE}/Stream",
            ":authority": "peer",
            "content-type": "application/grpc",
            "te": "trailers",
            **headers,
        }
        # literal header fields without indexing (RFC 7541, 6.2.2)
        block = b"".join(
            b"\0" + bytes((len(name),)) + name.encode() + bytes((len(text),)) + text.encode()
            for name, text in fields.items()
        )
        self.send(HEADERS, block, flags=4)

    def data(self, payload: bytes) -> None:
        self.window -= len(payload)
        for start in range(0, len(payload), 16_384):
            self.send(DATA, payload[start : start + 16_384])

    async def data_as_allowed(self, payload: bytes) -> None:
        """As flow control lets it: all of it goes if the other end awaits it."""
        while payload:
            piece = payload[: max(self.window, 0)]
            payload = payload[len(piece) :]
            self.data(piece)
            await self.settled()

    async def settled(self) -> None:
        """Everything sent so far was read by the other end. With settings, because grpc hangs up on frequent pings."""
        self.send_settings()
        async with self.settled_once:
            done = self.settled_once.wait_for(lambda: self.settings_acknowledged == self.settings_sent)
            await asyncio.wait_for(done, 60)

    def send_settings(self) -> None:
        self.settings_sent += 1
        self.send(SETTINGS, b"", stream=0)

    async def listen(self) -> None:
        while True:
            head = await self.reader.readexactly(9)
            payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
            kind, flags, stream = head[3], head[4], int.from_bytes(head[5:], "big")
            if kind == SETTINGS and not flags & ACK:
                told = dict(struct.iter_unpack(">HI", payload))
                self.window += told.get(INITIAL_WINDOW_SIZE, 65_535) - 65_535
                self.send(SETTINGS, b"", flags=ACK, stream=0)
            elif kind == SETTINGS:
                async with self.settled_once:
                    self.settings_acknowledged += 1
                    self.settled_once.notify_all()
            elif kind == PING and not flags & ACK:
                self.send(PING, payload, flags=ACK, stream=0)
            elif kind == WINDOW_UPDATE and stream == 1:
                self.window += int.from_bytes(payload, "big")
            elif kind == HEADERS and flags & 1:
                self.received += payload
                self.ended.set()


@asynccontextmanager
async def raw_peer(port: int) -> AsyncIterator[RawPeer]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    peer = RawPeer(reader, writer)
    writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
    peer.send_settings()
    listening = asyncio.create_task(peer.listen())
    try:
        yield peer
    finally:
        listening.cancel()
        writer.close()


class NeverAnswers(EchoSession):
    def __init__(self, opening: SessionOpening, stepping: asyncio.Event) -> None:
        super().__init__(opening, 1.0, {})
        self.stepping = stepping

    async def step(self, frame: Frame) -> Reply:
        self.stepping.set()
        await asyncio.Event().wait()
        return Reply(frame)


class Host(EchoSessionHost):
    def __init__(self) -> None:
        super().__init__()
        self.stepping = asyncio.Event()

    async def open(self, opening: SessionOpening) -> Session:  # type: ignore[override]
        return NeverAnswers(opening, self.stepping)


def prefixed(message: bytes, *, flag: int = 0) -> bytes:
    return bytes((flag,)) + struct.pack(">I", len(message)) + message


async def test_long_requests_take_a_quarter_of_the_event_loop_s_time_however_many_come(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The rest is for others: a step of a neighbour takes Python's lock hundreds of times."""
    parse, n, seconds = wire.parse_request, 20, 0.0

    def timed(data: bytes) -> pb2.StreamRequest:
        nonlocal seconds
        began = time.perf_counter()
        try:
            return parse(data)
        finally:
            seconds += time.perf_counter() - began

    monkeypatch.setattr(wire, "parse_request", timed)
    calls = SessionCalls(Host(), Admission(ServerLimits()), NoObserver(), HeapTrimmer())
    # most of them can be parsed, the others fail half way through
    long = pb2.StreamRequest(open=pb2.Open(block_hashes=[b""] * 130_000)).SerializeToString()
    broken = long[:-2] + b"\x2a\x09"
    began = time.perf_counter()
    ends = await asyncio.gather(*map(calls.parsed, [long, broken] * n), return_exceptions=True)
    assert time.perf_counter() - began >= 3.9 * seconds
    assert [type(end) for end in ends] == [pb2.StreamRequest, InvalidRequest] * n


async def test_short_requests_and_long_tensors_wait_for_nobody() -> None:
    calls = SessionCalls(Host(), Admission(ServerLimits()), NoObserver(), HeapTrimmer())
    long = pb2.StreamRequest(open=pb2.Open(block_hashes=[b""] * 130_000)).SerializeToString()
    waiting = [asyncio.ensure_future(calls.parsed(long)) for _ in range(200)]
    await asyncio.sleep(0)
    for _ in range(20):
        await calls.parsed(wire.encode_request(SessionOpening("one", "", 99, "none", (bytes(16),) * 99), None))
        await calls.parsed(wire.encode_request(None, Frame(0, torch.ones(2**9, 2**9))))
    assert not all(each.done() for each in waiting)
    for each in waiting:
        each.cancel()
    await asyncio.wait(waiting)


@pytest.mark.parametrize(("flag", "headers"), [(0, {}), (1, {}), (1, {"grpc-encoding": "gzip"})])
async def test_a_message_above_the_limit_is_refused_by_its_first_five_bytes(flag: int, headers: dict[str, str]) -> None:
    limits = ServerLimits(message_bytes=LIMIT)
    async with AsyncGRPCComputeServer(session_host=Host(), limits=limits) as server, raw_peer(server.port) as peer:
        peer.open(**headers)
        peer.data(bytes((flag,)) + struct.pack(">I", LIMIT + 1))

        await asyncio.wait_for(peer.ended.wait(), 20)

        assert b"grpc-status\x018" in peer.received
        assert f"larger than max ({LIMIT + 1} vs. {LIMIT})".encode() in peer.received


async def test_a_stream_runs_no_further_ahead_of_its_reader_than_it_may() -> None:
    host, limits = Host(), ServerLimits(message_bytes=LIMIT)
    async with AsyncGRPCComputeServer(session_host=host, limits=limits) as server, raw_peer(server.port) as peer:
        first = wire.encode_request(SessionOpening("one", "", 9), Frame(0, torch.ones(1, 4)))
        next_one = prefixed(wire.encode_request(None, Frame(1, torch.ones(2**10, 2**9))))
        peer.open()
        peer.data(prefixed(first))
        # from here on nobody reads
        await asyncio.wait_for(host.stepping.wait(), 20)
        ahead = 0
        # the network is as fast as it can be, so that windows that grow would grow
        for _ in range(200):
            await peer.settled()
            if peer.window <= 0:
                break
            piece = (next_one * 2)[ahead % len(next_one) :][: peer.window]
            peer.data(piece)
            ahead += len(piece)

        # gRPC may have taken the next message's prefix already, and gives its bytes back to the window
        assert 0 < ahead <= UNREAD_BYTES + len(prefixed(b""))


@pytest.mark.parametrize("frames_before", [0, 1], ids=["first message", "second message"])
async def test_a_stream_that_stops_in_a_message_gives_its_place_to_one_that_comes(
    monkeypatch: pytest.MonkeyPatch, frames_before: int
) -> None:
    monkeypatch.setattr(admission, "IDLE_SECONDS", admission.SILENT_SECONDS)
    n = 8
    opening = SessionOpening("one", "echo", 2**12)
    small, large = Frame(0, torch.ones(1, 4)), torch.ones(2**10 - 1, 2**10)
    first = prefixed(wire.encode_request(opening, small)) * frames_before
    stops = prefixed(wire.encode_request(None if frames_before else opening, Frame(frames_before, large)))[:-1]
    limits = ServerLimits(message_bytes=LIMIT, streams=n)
    async with (
        AsyncGRPCComputeServer(session_host=EchoSessionHost(), limits=limits) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", timeout=20) as client,
        AsyncExitStack() as stack,
    ):
        peers = [await stack.enter_async_context(raw_peer(server.port)) for _ in range(n)]
        for peer in peers:
            peer.open()
            peer.data(first)
            await peer.data_as_allowed(stops)
        async with asyncio.timeout(20):
            for _ in range(n):
                # each refusal takes a round trip
                while not await answered(client.stream(opening), small):
                    pass
        for peer in peers:
            await asyncio.wait_for(peer.ended.wait(), 20)
            assert b"grpc-status\x018" in peer.received


async def answered(stream: ClientStream, frame: Frame) -> bool:
    try:
        await stream.step(frame)
    except Overloaded:
        return False
    return True
