"""Clients that do not read what the server sends them."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc.aio
import pytest
import torch

from splitlearn_comm import AsyncGRPCComputeClient, ComputeFunction, SessionOpening, admission, wire
from splitlearn_comm.admission import IDLE_SECONDS, Admission, ServerLimits
from splitlearn_comm.core import PLAIN, NoObserver
from splitlearn_comm.errors import Overloaded
from splitlearn_comm.frames import Frame
from splitlearn_comm.outgoing import Outgoing
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost

ROWS = torch.ones(64, 256)
# which come back doubled
# no reply fits into such a window before the client reads
UNREAD = (("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))


class Refusals(NoObserver):
    def __init__(self) -> None:
        self.kinds: list[str] = []
        self.closed = 0
        self.sent = asyncio.Event()

    def refused(self, kind: str) -> None:
        self.kinds.append(kind)

    def session_closed(self) -> None:
        self.closed += 1

    def bytes_out(self, count: int, codec: str) -> None:
        self.sent.set()


@asynccontextmanager
async def rude_channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNREAD) as channel:
        yield channel


async def unread_stream(channel: grpc.aio.Channel, observer: Refusals, name: str) -> grpc.aio.StreamStreamCall:
    """A session whose first reply the server is about to write, and nobody reads."""
    observer.sent.clear()
    call = channel.stream_stream(f"/{wire.SERVICE}/Stream")()
    await call.write(wire.encode_request(SessionOpening(name, "echo", 100), Frame(0, ROWS), PLAIN))
    await observer.sent.wait()
    return call


async def asked(client: AsyncGRPCComputeClient) -> torch.Tensor:
    async with client.stream(SessionOpening("honest", "echo", 100)) as session:
        return (await session.step(Frame(0, ROWS))).frame.rows


@pytest.fixture
def _at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Streams need not wait for long before others get their places."""
    monkeypatch.setattr(admission, "IDLE_SECONDS", 0.0)


@pytest.mark.usefixtures("_at_once")
async def test_a_stream_that_does_not_read_its_reply_makes_way_and_is_told_so_once_it_reads() -> None:
    observer = Refusals()
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(), observer=observer, limits=ServerLimits(streams=1))
    async with server, rude_channel(server.port) as rude, asyncio.timeout(60):
        unread = await unread_stream(rude, observer, "rude")
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as honest:
            assert torch.equal(await asked(honest), 2 * ROWS)
        reply = wire.decode_reply(await unread.read())
        assert torch.equal(reply.frame.rows, 2 * ROWS)
        with pytest.raises(grpc.aio.AioRpcError, match="evicted") as caught:
            await unread.read()
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert observer.closed == 2


class Doubled(ComputeFunction):
    def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
        return 2 * input_tensor

    def get_info(self) -> dict[str, str]:
        return {}


@pytest.mark.usefixtures("_at_once")
async def test_a_compute_stream_that_does_not_read_its_reply_makes_way_too() -> None:
    observer = Refusals()
    server = AsyncGRPCComputeServer(compute_fn=Doubled(), observer=observer, limits=ServerLimits(streams=1))
    async with server, rude_channel(server.port) as rude, asyncio.timeout(60):
        unread = rude.stream_stream(f"/{wire.SERVICE}/Compute")()
        await unread.write(wire.encode_compute(ROWS, PLAIN))
        await observer.sent.wait()
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as honest:
            assert torch.equal(await honest.compute(ROWS), 2 * ROWS)


@pytest.mark.usefixtures("_at_once")
async def test_who_leaves_without_reading_is_no_failure(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    observer = Refusals()
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(), observer=observer, limits=ServerLimits(streams=2))
    async with server, asyncio.timeout(60):
        async with rude_channel(server.port) as rude:
            for number in range(6):
                await unread_stream(rude, observer, f"rude{number}")
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as honest:
            await asked(honest)
    assert set(observer.kinds) <= {"Overloaded"}
    assert observer.closed == 7
    said = capsys.readouterr()
    assert "Traceback" not in said.out + said.err
    assert "unexpected_error" not in said.out + said.err
    assert not caplog.records


@pytest.mark.usefixtures("_at_once")
async def test_who_reads_nothing_gets_no_new_stream_and_others_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admission, "_MOST_UNREAD", 3)
    monkeypatch.setattr("splitlearn_comm.session_calls.sender_of", lambda context: context.peer())
    monkeypatch.setattr("splitlearn_comm.service.sender_of", lambda context: context.peer())
    observer = Refusals()
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(), observer=observer, limits=ServerLimits(streams=1))
    async with server, rude_channel(server.port) as rude, asyncio.timeout(60):
        for number in range(4):
            await unread_stream(rude, observer, f"rude{number}")
        refused = rude.stream_stream(f"/{wire.SERVICE}/Stream")()
        await refused.write(wire.encode_request(SessionOpening("another", "echo", 100), Frame(0, ROWS), PLAIN))
        with pytest.raises(grpc.aio.AioRpcError, match="has not read their replies"):
            await refused.read()
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as honest:
            assert torch.equal(await asked(honest), 2 * ROWS)


def test_a_stream_that_is_written_to_waits_for_its_client() -> None:
    places, lost = Admission(ServerLimits(streams=1)), list[str]()
    place = places.enter(0.0, lambda: lost.append("unread"), "rude")
    places.works(place)
    with places.sending(place, 1.0):
        with pytest.raises(Overloaded):
            places.enter(IDLE_SECONDS, lambda: None, "honest")
        places.enter(1.0 + IDLE_SECONDS, lambda: None, "honest")
    assert lost == ["unread"]
    assert places.n_open == 1


def test_a_stream_that_was_written_to_is_what_it_was_before() -> None:
    places = Admission(ServerLimits(streams=1))
    place = places.enter(0.0, lambda: None, "somebody")
    places.works(place)
    with places.sending(place, 1.0):
        pass
    with pytest.raises(Overloaded):
        places.enter(1000.0, lambda: None, "another")
    places.waits(place, 5.0, silent=True)
    with places.sending(place, 6.0):
        pass
    places.enter(5.0 + admission.SILENT_SECONDS, lambda: None, "another")


def test_a_stream_whose_client_has_gone_keeps_nobody_out_while_it_is_closed() -> None:
    places = Admission(ServerLimits(streams=1))
    place = places.enter(0.0, lambda: None, "gone")
    places.works(place)
    with pytest.raises(asyncio.CancelledError), places.sending(place, 1.0):
        raise asyncio.CancelledError
    places.enter(1.0 + IDLE_SECONDS, lambda: None, "honest")
    places.leave(place)
    assert places.n_open == 1


class Gone:
    """The context of a call whose client has left, before grpc cancels it."""

    async def write(self, _data: bytes) -> None:
        raise grpc.aio.InternalError("Failed execute_batch")


async def test_a_message_that_cannot_be_sent_any_more_ends_the_call_as_cancelling_it_would() -> None:
    outgoing = Outgoing(Gone())
    for waits in (outgoing.write(b"late"), outgoing.read()):
        with pytest.raises(asyncio.CancelledError):
            await waits
