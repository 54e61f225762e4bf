"""How long a session may go without a frame: its first one, and after the last one that it announced."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import grpc
import grpc.aio
import pytest

from splitlearn_comm import SessionOpening, wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.admission import ServerLimits
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.statuses import KIND_KEY
from splitlearn_comm.testing import EchoSession, EchoSessionHost

OPEN = pb2.StreamRequest(open=pb2.Open(session_id="one", fingerprint="echo", max_length=64))
FRAME = pb2.StreamRequest(
    frame=pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[1, 2], data=bytes(8))),
)
FINISH = pb2.StreamRequest(finish=pb2.Finish(block_hashes=[b"one"]))
FIRST = pb2.StreamRequest(open=OPEN.open, frame=FRAME.frame)

NewStream = Callable[[], grpc.aio.StreamStreamCall]


@pytest.fixture
def host() -> EchoSessionHost:
    return EchoSessionHost()


@pytest.fixture
async def new_stream(host: EchoSessionHost) -> AsyncIterator[NewStream]:
    """Of a server that waits a second for a first frame; on a busy machine an opening takes a part of it."""
    limits = ServerLimits(first_frame_seconds=1.0)
    async with (
        AsyncGRPCComputeServer(session_host=host, limits=limits) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel.stream_stream(f"/{wire.SERVICE}/Stream")


async def outcome(stream: grpc.aio.StreamStreamCall, *requests: pb2.StreamRequest) -> tuple[str, str, str]:
    """How a stream with these requests ends that the client leaves open: code, kind, message."""
    for request in requests:
        await stream.write(request.SerializeToString())
    # a status comes after the replies before it were read
    with suppress(grpc.aio.AioRpcError):
        while await stream.read() is not grpc.aio.EOF:
            pass
    code = await stream.code()
    return code.name, str(dict(await stream.trailing_metadata()).get(KIND_KEY)), await stream.details()


@pytest.mark.parametrize(
    ("requests", "sessions"), [((), 0), ((OPEN,), 1)], ids=["without a request", "opened and no more"]
)
async def test_a_session_without_a_frame_is_closed_after_its_time(
    new_stream: NewStream, host: EchoSessionHost, requests: tuple[pb2.StreamRequest, ...], sessions: int
) -> None:
    assert await outcome(new_stream(), *requests) == (
        "DEADLINE_EXCEEDED",
        "TimedOut",
        "no frame came within 1 s; the session is closed",
    )
    assert [session.times_closed for session in host.sessions] == [1] * sessions


async def test_a_session_that_sent_a_frame_stays_while_later_ones_run_out_of_time(
    new_stream: NewStream, host: EchoSessionHost
) -> None:
    busy = new_stream()
    await busy.write(FIRST.SerializeToString())
    assert pb2.StreamReply.FromString(await busy.read()).HasField("frame")

    # opened after the frame above was answered: whatever time that session had left is over as well
    assert (await outcome(new_stream(), OPEN))[1] == "TimedOut"

    await busy.write(FRAME.SerializeToString())
    assert pb2.StreamReply.FromString(await busy.read()).HasField("frame")
    await busy.done_writing()
    assert await busy.code() is grpc.StatusCode.OK


async def test_a_session_that_was_kept_and_stays_open_has_as_long_to_end(
    new_stream: NewStream, host: EchoSessionHost
) -> None:
    assert (await outcome(new_stream(), FIRST, FINISH))[1] == "TimedOut"
    assert list(host.cached) == [b"one"]
    assert host.sessions[0].times_closed == 1


class SlowlyClosed(EchoSession):
    closing: asyncio.Event
    may_close: asyncio.Event

    async def close(self) -> None:
        await super().close()
        self.closing.set()
        await self.may_close.wait()


class SlowlyClosing(EchoSessionHost):
    def __init__(self) -> None:
        super().__init__()
        self.closing = asyncio.Event()
        self.may_close = asyncio.Event()

    async def open(self, opening: SessionOpening) -> SlowlyClosed:
        session = SlowlyClosed(opening, self.factor, self.cached)
        session.closing, session.may_close = self.closing, self.may_close
        self.sessions.append(session)
        return session


async def test_a_new_stream_takes_the_place_of_one_that_is_being_closed_as_its_time_is_over() -> None:
    host = SlowlyClosing()
    limits = ServerLimits(first_frame_seconds=1.0, streams=1)
    async with (
        AsyncGRPCComputeServer(session_host=host, limits=limits) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
        asyncio.timeout(60),
    ):
        new_stream = channel.stream_stream(f"/{wire.SERVICE}/Stream")
        late = new_stream()
        await late.write(OPEN.SerializeToString())
        await host.closing.wait()

        busy = new_stream()
        await busy.write(FIRST.SerializeToString())
        try:
            assert pb2.StreamReply.FromString(await busy.read()).HasField("frame")
        finally:
            host.may_close.set()
        assert await late.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
