"""What the server does with streams of clients that are foreign, rude, slow or gone."""

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import grpc
import grpc.aio
import pytest
import torch

from splitlearn_comm import statuses, wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm._proto.compute_pb2_grpc import ComputeServiceStub
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import NoObserver, SessionOpening
from splitlearn_comm.errors import Overloaded, RemoteFailure
from splitlearn_comm.frames import Frame, Reply, ServiceInfo
from splitlearn_comm.options import MAX_MESSAGE_BYTES
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost, loopback

OPEN = pb2.Open(session_id="one", fingerprint="echo", max_length=64)
ROW = pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[1, 2], data=bytes(8)))


class OneSession:
    """Host and session in one, for tests that say what a step does."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.cancelled = asyncio.Event()
        self.closed = asyncio.Event()
        self.times_closed = 0

    async def open(self, _opening: SessionOpening) -> "OneSession":
        return self

    def info(self) -> ServiceInfo:
        return ServiceInfo("one", "1", "cpu")

    @property
    def reached(self) -> int:
        return 0

    def finish(self, block_hashes: Sequence[bytes]) -> None:
        pass

    async def step(self, _frame: Frame) -> Reply:
        """Never answers."""
        self.entered.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise
        raise RemoteFailure("the event is never set")

    async def close(self) -> None:
        self.times_closed += 1
        self.closed.set()


class Counter(NoObserver):
    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.refusals: list[str] = []

    def session_opened(self) -> None:
        self.opened += 1

    def session_closed(self) -> None:
        self.closed += 1

    def refused(self, kind: str) -> None:
        self.refusals.append(kind)


@pytest.fixture
def host() -> EchoSessionHost:
    return EchoSessionHost()


@pytest.fixture
async def channel(host: EchoSessionHost) -> AsyncIterator[grpc.aio.Channel]:
    """Of a client that is not ours and holds itself to no limit."""
    async with (
        AsyncGRPCComputeServer(session_host=host) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel


@pytest.fixture
def foreign(channel: grpc.aio.Channel) -> ComputeServiceStub:
    return ComputeServiceStub(channel)


@pytest.fixture
def raw_stream(channel: grpc.aio.Channel) -> Callable[[], grpc.aio.StreamStreamCall]:
    """Streams that take and give bytes."""
    return channel.stream_stream(f"/{wire.SERVICE}/Stream")


async def replies(stub: ComputeServiceStub, requests: Iterator[pb2.StreamRequest]) -> tuple[list[pb2.StreamReply], str]:
    """All replies, and the code that the stream ended with."""
    call = stub.Stream(requests)
    got = []
    try:
        async for reply in call:
            got.append(reply)
    except grpc.aio.AioRpcError as error:
        return got, error.code().name
    return got, "OK"


async def test_an_open_alone_is_answered_by_nothing_until_a_frame_comes(
    foreign: ComputeServiceStub, host: EchoSessionHost
) -> None:
    got, code = await replies(foreign, iter([pb2.StreamRequest(open=OPEN), pb2.StreamRequest(frame=ROW)]))

    assert [reply.WhichOneof("outcome") for reply in got] == ["frame"]
    assert code == "OK"
    assert host.sessions[0].opening == SessionOpening("one", "echo", 64, identity="address ipv4:127.0.0.1")


async def test_an_open_that_asks_for_an_unknown_codec_ends_the_stream_by_name(
    raw_stream: Callable[[], grpc.aio.StreamStreamCall], host: EchoSessionHost
) -> None:
    opening = pb2.Open(session_id="one", fingerprint="echo", max_length=64)
    opening.MergeFromString(bytes([4 << 3, 99]))
    stream = raw_stream()
    await stream.write(pb2.StreamRequest(open=opening, frame=ROW).SerializeToString())

    assert await stream.code() is grpc.StatusCode.UNIMPLEMENTED
    assert (statuses.KIND_KEY, "UnknownCodec") in tuple(await stream.trailing_metadata())
    assert "codec number 99; this end knows none, zlib" in await stream.details()
    assert host.sessions == []


async def test_a_stream_without_a_request_opens_no_session(foreign: ComputeServiceStub, host: EchoSessionHost) -> None:
    assert await replies(foreign, iter([])) == ([], "OK")
    assert host.sessions == []


async def test_a_first_request_without_an_open_ends_the_stream(
    foreign: ComputeServiceStub, host: EchoSessionHost
) -> None:
    assert await replies(foreign, iter([pb2.StreamRequest(frame=ROW)])) == ([], "INVALID_ARGUMENT")
    assert host.sessions == []


async def test_a_second_open_ends_the_stream_and_closes_the_session(
    foreign: ComputeServiceStub, host: EchoSessionHost
) -> None:
    got, code = await replies(foreign, iter([pb2.StreamRequest(open=OPEN, frame=ROW), pb2.StreamRequest(open=OPEN)]))

    assert (len(got), code) == (1, "INVALID_ARGUMENT")
    assert host.sessions[0].times_closed == 1


AFTER_KEEP = {
    "a frame": pb2.StreamRequest(frame=ROW),
    "a frame that truncates": pb2.StreamRequest(frame=pb2.Frame()),
    "another finish": pb2.StreamRequest(finish=pb2.Finish(block_hashes=[b"n"])),
    "another open": pb2.StreamRequest(open=OPEN),
    "nothing": pb2.StreamRequest(),
    "a frame that is none": pb2.StreamRequest(frame=pb2.Frame(position=-1)),
}


@pytest.mark.parametrize("what", AFTER_KEEP)
async def test_after_keep_nothing_is_answered_and_the_stream_ends_by_an_error_that_says_so(
    raw_stream: Callable[[], grpc.aio.StreamStreamCall], host: EchoSessionHost, what: str
) -> None:
    stream = raw_stream()
    await stream.write(pb2.StreamRequest(open=OPEN, frame=ROW).SerializeToString())
    assert pb2.StreamReply.FromString(await stream.read()).HasField("frame")
    await stream.write(pb2.StreamRequest(finish=pb2.Finish(block_hashes=[b"n"])).SerializeToString())
    await stream.write(AFTER_KEEP[what].SerializeToString())

    assert await stream.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert (statuses.KIND_KEY, "SessionClosed") in tuple(await stream.trailing_metadata())
    await asyncio.wait_for(host.sessions[0].closed.wait(), 5)
    assert host.sessions[0].reached == 1


async def test_frames_that_are_none_are_refused_in_band_and_the_session_goes_on(
    foreign: ComputeServiceStub, host: EchoSessionHost
) -> None:
    def broken(**tensor: object) -> pb2.StreamRequest:
        good = {"dtype": pb2.DTYPE_FLOAT32, "shape": [1, 2], "data": bytes(8)}
        return pb2.StreamRequest(frame=pb2.Frame(rows=pb2.Tensor(**(good | tensor))))  # type: ignore[arg-type]

    requests = [
        pb2.StreamRequest(open=OPEN),
        pb2.StreamRequest(),
        broken(dtype=pb2.DTYPE_UNSPECIFIED),
        broken(shape=[2, 2]),
        broken(shape=[2]),
        broken(shape=[-1, 2]),
        pb2.StreamRequest(frame=pb2.Frame(position=-1)),
        broken(),
    ]
    got, code = await replies(foreign, iter(requests))

    kinds = [reply.error.kind for reply in got]
    tensors = ["InvalidTensor"] * 4
    assert kinds == ["InvalidRequest", *tensors, "InvalidRequest", ""]
    assert {reply.error.code for reply in got[:-1]} == {pb2.CODE_INVALID_ARGUMENT}
    assert code == "OK"
    assert host.sessions[0].reached == 1


async def test_a_bad_frame_beside_the_open_does_not_spoil_the_open(
    foreign: ComputeServiceStub, host: EchoSessionHost
) -> None:
    requests = [pb2.StreamRequest(open=OPEN, frame=pb2.Frame(position=9)), pb2.StreamRequest(frame=ROW)]
    got, code = await replies(foreign, iter(requests))

    assert [reply.error.kind for reply in got] == ["PositionNotReached", ""]
    assert code == "OK"


async def test_a_message_above_the_limit_ends_its_stream_and_no_other(
    raw_stream: Callable[[], grpc.aio.StreamStreamCall], host: EchoSessionHost
) -> None:
    opening = pb2.StreamRequest(open=OPEN, frame=ROW).SerializeToString()
    polite, rude = raw_stream(), raw_stream()
    for stream in (polite, rude):
        await stream.write(opening)
        await stream.read()

    with pytest.raises(grpc.aio.AioRpcError, match="Received message larger than max"):
        await asyncio.gather(rude.write(bytes(MAX_MESSAGE_BYTES + 1)), rude.read())

    await asyncio.wait_for(host.sessions[1].closed.wait(), 5)
    await polite.write(pb2.StreamRequest(frame=ROW).SerializeToString())
    assert pb2.StreamReply.FromString(await polite.read()).HasField("frame")
    await polite.done_writing()


async def test_a_request_that_cannot_be_parsed_ends_the_stream_and_closes_the_session(
    raw_stream: Callable[[], grpc.aio.StreamStreamCall], host: EchoSessionHost
) -> None:
    stream = raw_stream()
    await stream.write(pb2.StreamRequest(open=OPEN).SerializeToString())
    await stream.write(b"\xff\xff\xff")

    assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert "not a splitlearn.comm.v1.StreamRequest" in await stream.details()
    assert host.sessions[0].times_closed == 1


async def test_a_client_that_cancels_in_the_middle_of_a_step_cancels_it_and_closes_the_session() -> None:
    session, counter = OneSession(), Counter()
    async with loopback(session_host=session, observer=counter) as (_, client):
        stream = client.stream(SessionOpening("one", "", 64))
        await stream.send(Frame(0, torch.ones(1, 2)))
        await session.entered.wait()

        stream.cancel()

        await asyncio.wait_for(session.closed.wait(), 5)
        assert session.cancelled.is_set()
    assert (session.times_closed, counter.opened, counter.closed) == (1, 1, 1)


async def test_a_client_that_vanishes_closes_its_session() -> None:
    session = OneSession()
    async with AsyncGRPCComputeServer(session_host=session) as server:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
            call = ComputeServiceStub(channel).Stream()
            await call.write(pb2.StreamRequest(open=OPEN, frame=ROW))
            await session.entered.wait()

        await asyncio.wait_for(session.closed.wait(), 5)
    assert session.times_closed == 1


async def test_stopping_cuts_a_step_and_waits_for_a_slow_close() -> None:
    release = asyncio.Event()

    class SlowToClose(OneSession):
        async def close(self) -> None:
            await super().close()
            await release.wait()

    session = SlowToClose()
    async with loopback(session_host=session) as (server, client):
        await client.stream(SessionOpening("one", "", 64)).send(Frame(0, None))
        await session.entered.wait()

        stopping = asyncio.create_task(server.stop())
        await session.closed.wait()
        # A few turns of the loop, in which a stop that does not wait would come to its end.
        done, _ = await asyncio.wait({stopping}, timeout=0.05)
        assert not done
        release.set()
        await asyncio.wait_for(stopping, 5)
    assert session.times_closed == 1


async def test_an_unexpected_exception_in_a_step_ends_the_stream_with_its_type_only() -> None:
    class Broken(OneSession):
        async def step(self, _frame: Frame) -> Reply:
            raise ZeroDivisionError("the secret of this machine")

    session = Broken()
    async with loopback(session_host=session) as (_, client):
        stream = client.stream(SessionOpening("one", "", 64))
        with pytest.raises(RemoteFailure, match=r"^ZeroDivisionError in Stream; the server's log says more$"):
            await stream.step(Frame(0, torch.ones(1, 2)))

        assert stream.ended
        assert session.times_closed == 1


async def test_a_close_that_fails_is_the_servers_own_affair(capsys: pytest.CaptureFixture[str]) -> None:
    class BadlyClosed(OneSession):
        async def step(self, frame: Frame) -> Reply:
            return Reply(frame)

        async def close(self) -> None:
            await super().close()
            raise ZeroDivisionError

    counter = Counter()
    async with (
        loopback(session_host=BadlyClosed(), observer=counter) as (_, client),
        client.stream(SessionOpening("one", "", 64)) as stream,
    ):
        await stream.step(Frame(0, None))

    assert counter.closed == 1
    assert "session_close_failed" in capsys.readouterr().out


async def test_a_reply_above_the_limit_ends_the_stream_because_the_session_has_moved_on() -> None:
    class Inflating(OneSession):
        async def step(self, frame: Frame) -> Reply:
            return Reply(Frame(frame.position, torch.zeros(1, MAX_MESSAGE_BYTES, dtype=torch.uint8)))

    async with loopback(session_host=Inflating()) as (_, client):
        stream = client.stream(SessionOpening("one", "", 64))
        with pytest.raises(RemoteFailure, match="the reply cannot be sent: a message of"):
            await stream.step(Frame(0, None))


async def test_a_host_that_is_full_refuses_the_open_by_its_own_words() -> None:
    class Full(OneSession):
        async def open(self, _opening: SessionOpening) -> OneSession:
            raise Overloaded("8 of 8 sessions are open; try again")

    session, counter = Full(), Counter()
    async with loopback(session_host=session, observer=counter) as (_, client):
        stream = client.stream(SessionOpening("one", "", 64))
        with pytest.raises(Overloaded, match=r"^8 of 8 sessions are open; try again$"):
            await stream.step(Frame(0, torch.ones(1, 2)))

    assert (session.times_closed, counter.opened, counter.closed) == (0, 0, 0)
    assert counter.refusals == ["Overloaded"]


async def test_frames_count_as_requests_refused_ones_too() -> None:
    async with loopback(session_host=EchoSessionHost()) as (_, client):
        async with client.stream(SessionOpening("one", "echo", 64)) as stream:
            await stream.step(Frame(0, torch.ones(1, 2)))
            with pytest.raises(Exception, match="reached only 1"):
                await stream.step(Frame(5, None))
        info = await client.service_info()

    assert info.total_requests == 2
    assert (info.service_name, info.fingerprint) == ("echo", "echo")


async def test_a_server_says_the_same_of_who_it_is_to_all_and_another_one_says_something_else() -> None:
    async with loopback(session_host=EchoSessionHost()) as (server, client):
        first = (await client.service_info()).instance
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as again:
            assert (await again.service_info()).instance == first
        async with loopback(session_host=EchoSessionHost()) as (_, other):
            assert (await other.service_info()).instance not in ("", first)
