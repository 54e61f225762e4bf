"""A session seen from its client: order, errors that leave it alive, errors that end it, deadlines, giving up."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace

import grpc
import grpc.aio
import pytest
import torch

from splitlearn_comm import wire
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import CODECS, SessionOpening
from splitlearn_comm.errors import (
    Cancelled,
    FingerprintMismatch,
    InvalidTensor,
    PositionNotReached,
    RemoteFailure,
    SessionTooLong,
    TimedOut,
    UnknownCodec,
    Unreachable,
)
from splitlearn_comm.frames import Frame, Reply, ServiceInfo
from splitlearn_comm.options import CHUNK_BYTES, MAX_MESSAGE_BYTES
from splitlearn_comm.testing import EchoSessionHost, loopback

OPENING = SessionOpening("one", "echo", 64)


def rows(count: int, start: float = 0.0) -> torch.Tensor:
    return torch.arange(start, start + count).unsqueeze(1).expand(count, 4)


@pytest.fixture
def host() -> EchoSessionHost:
    return EchoSessionHost()


@pytest.fixture
async def client(host: EchoSessionHost) -> AsyncIterator[AsyncGRPCComputeClient]:
    async with loopback(session_host=host) as (_, client):
        yield client


@pytest.fixture
def silent_address() -> Iterator[str]:
    """Takes connections and never says a word."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


async def test_the_first_frame_opens_the_session_and_is_answered(
    client: AsyncGRPCComputeClient, host: EchoSessionHost
) -> None:
    async with client.stream(OPENING) as stream:
        reply = await stream.step(Frame(0, rows(3)))

        assert host.sessions[0].opening == replace(OPENING, identity="address ipv4:127.0.0.1")
        assert reply.frame.position == 0
        assert torch.equal(reply.frame.rows, rows(3) * 2)  # type: ignore[arg-type]
        assert reply.compute_seconds > 0
        assert stream.bytes_sent > 3 * 4 * 4 < stream.bytes_received


@pytest.mark.parametrize("codec", CODECS)
async def test_rows_travel_in_the_codec_that_the_open_asks_for_both_ways(
    client: AsyncGRPCComputeClient, host: EchoSessionHost, codec: str
) -> None:
    rows_TD = torch.full((16, 128), 1.5)
    async with client.stream(SessionOpening("one", "echo", 64, codec)) as stream:
        reply = await stream.step(Frame(0, rows_TD))

    assert host.sessions[0].opening.codec == codec
    assert torch.equal(reply.frame.rows, rows_TD * 2)  # type: ignore[arg-type]
    most = {"none": 1.05, "zlib": 0.2, "bf16": 0.55, "fp16": 0.55, "int8": 0.32}[codec] * rows_TD.nbytes
    assert 0 < stream.bytes_sent < most
    assert 0 < stream.bytes_received < most


async def test_long_compression_is_done_off_the_event_loop_and_frames_keep_their_order(
    client: AsyncGRPCComputeClient,
) -> None:
    big_TD = torch.arange(2**15, dtype=torch.float32).expand(2, 2**15)
    async with client.stream(SessionOpening("one", "echo", 64, "zlib")) as stream:
        for position, rows_TD in enumerate((big_TD[:1], big_TD[:1, :].neg(), big_TD[:1] + 1)):
            await stream.send(Frame(position, rows_TD))
        replies = [await stream.receive() for _ in range(3)]

    assert [reply.frame.position for reply in replies] == [0, 1, 2]
    assert torch.equal(replies[1].frame.rows, big_TD[:1] * -2)  # type: ignore[arg-type]


async def test_a_codec_that_this_end_does_not_have_is_refused_before_anything_is_sent(
    client: AsyncGRPCComputeClient, host: EchoSessionHost
) -> None:
    with pytest.raises(UnknownCodec, match="unknown codec 'lz4'"):
        client.stream(SessionOpening("one", "echo", 64, "lz4"))
    assert host.sessions == []


async def test_leaving_the_stream_closes_the_session_on_the_server(
    client: AsyncGRPCComputeClient, host: EchoSessionHost
) -> None:
    async with client.stream(OPENING) as stream:
        await stream.step(Frame(0, rows(1)))
        assert not host.sessions[0].closed.is_set()

    assert host.sessions[0].times_closed == 1
    assert stream.ended
    assert repr(stream) == f"<ClientStream 'one' at {client.target} ended>"


async def test_an_exception_that_leaves_the_stream_cancels_it(
    client: AsyncGRPCComputeClient, host: EchoSessionHost
) -> None:
    async def fail() -> None:
        async with client.stream(OPENING) as stream:
            await stream.step(Frame(0, rows(1)))
            raise KeyError("of the caller")

    with pytest.raises(KeyError, match="of the caller"):
        await fail()

    await asyncio.wait_for(host.sessions[0].closed.wait(), 5)


async def test_frames_sent_ahead_are_answered_in_order(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(OPENING) as stream:
        for position in range(5):
            await stream.send(Frame(position, rows(1, position)))
        replies = [await stream.receive() for _ in range(5)]

    assert [reply.frame.position for reply in replies] == list(range(5))
    assert torch.equal(torch.cat([reply.frame.rows for reply in replies]), rows(5) * 2)  # type: ignore[misc]


async def test_far_more_may_be_sent_ahead_than_the_network_holds(client: AsyncGRPCComputeClient) -> None:
    chunk = torch.zeros(1, CHUNK_BYTES, dtype=torch.uint8)
    async with client.stream(SessionOpening("one", "echo", 10_000)) as stream:
        for _ in range(24):
            await stream.send(Frame(0, chunk))
        for _ in range(24):
            await stream.receive()

    assert stream.bytes_received > 24 * CHUNK_BYTES


async def test_an_error_in_band_leaves_the_session_as_it_was(
    client: AsyncGRPCComputeClient, host: EchoSessionHost
) -> None:
    async with client.stream(SessionOpening("one", "echo", 4)) as stream:
        await stream.step(Frame(0, rows(3)))
        with pytest.raises(PositionNotReached, match="position 9, but the session has reached only 3"):
            await stream.step(Frame(9, rows(1)))
        with pytest.raises(SessionTooLong, match="opened for at most 4"):
            await stream.step(Frame(3, rows(2)))

        assert not stream.ended
        assert host.sessions[0].reached == 3
        await stream.step(Frame(3, rows(1)))
        assert host.sessions[0].reached == 4


async def test_errors_in_band_keep_their_place_among_replies(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(OPENING) as stream:
        for position in (0, 7, 1):
            await stream.send(Frame(position, rows(1)))

        assert (await stream.receive()).frame.position == 0
        with pytest.raises(PositionNotReached):
            await stream.receive()
        assert (await stream.receive()).frame.position == 1


async def test_a_frame_refused_at_this_end_was_not_sent(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(OPENING) as stream:
        with pytest.raises(InvalidTensor, match="exceeds the limit"):
            await stream.send(Frame(0, torch.zeros(1, MAX_MESSAGE_BYTES, dtype=torch.uint8)))
        with pytest.raises(InvalidTensor, match="complex64"):
            await stream.send(Frame(0, torch.zeros(1, 1, dtype=torch.complex64)))

        assert stream.bytes_sent == 0
        assert (await stream.step(Frame(0, rows(1)))).frame.row_count == 1


async def test_a_wrong_fingerprint_names_both_sides_and_ends_the_stream(
    client: AsyncGRPCComputeClient, host: EchoSessionHost
) -> None:
    stream = client.stream(SessionOpening("one", "other", 64))
    for _ in range(2):
        with pytest.raises(FingerprintMismatch, match="holds 'echo', the client expects 'other'"):
            await stream.step(Frame(0, rows(1)))

    assert stream.ended
    assert host.sessions == []


async def test_a_refused_open_is_told_even_while_chunks_are_being_sent(client: AsyncGRPCComputeClient) -> None:
    chunk = torch.zeros(1, CHUNK_BYTES, dtype=torch.uint8)

    async def send_much() -> None:
        async with client.stream(SessionOpening("one", "other", 10_000)) as stream:
            for _ in range(16):
                await stream.send(Frame(0, chunk))
            await stream.receive()

    for _ in range(8):
        with pytest.raises(FingerprintMismatch, match="holds 'echo'"):
            await send_much()


async def test_leaving_a_stream_tells_the_error_that_nobody_has_seen(client: AsyncGRPCComputeClient) -> None:
    async def leave() -> None:
        async with client.stream(SessionOpening("one", "other", 64)) as stream:
            await stream.send(Frame(0, rows(1)))

    with pytest.raises(FingerprintMismatch):
        await leave()


async def test_leaving_a_stream_tells_no_error_twice(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(SessionOpening("one", "other", 64)) as stream:
        with pytest.raises(FingerprintMismatch):
            await stream.step(Frame(0, rows(1)))


async def test_a_connection_that_breaks_while_a_stream_is_closed_ends_it_with_an_error_of_ours(
    client: AsyncGRPCComputeClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    stream = client.stream(OPENING)
    await stream.step(Frame(0, rows(1)))
    call = stream._stream._call

    async def break_off() -> None:
        # what gRPC does where the call is over, and this end has not noticed yet
        call.cancel()
        raise grpc.aio.InternalError("Failed grpc_call_start_batch")

    monkeypatch.setattr(call, "done_writing", break_off)
    with pytest.raises(Cancelled):
        await stream.close()
    assert stream.ended


async def test_a_stream_without_a_frame_opens_nothing(client: AsyncGRPCComputeClient, host: EchoSessionHost) -> None:
    async with client.stream(OPENING):
        pass

    await client.service_info()
    assert host.sessions == []


async def test_cancelling_wakes_whoever_receives(client: AsyncGRPCComputeClient, host: EchoSessionHost) -> None:
    stream = client.stream(OPENING)
    await stream.step(Frame(0, rows(1)))
    receiving = asyncio.create_task(stream.receive())
    await asyncio.wait({receiving}, timeout=0)

    stream.cancel()

    with pytest.raises(Cancelled, match="session 'one' was cancelled at this end"):
        await receiving
    with pytest.raises(Cancelled):
        await stream.send(Frame(1, rows(1)))
    await stream.close()
    await asyncio.wait_for(host.sessions[0].closed.wait(), 5)


async def test_leaving_a_stream_that_was_given_up_at_this_end_is_no_error(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(OPENING) as cancelled:
        await cancelled.step(Frame(0, rows(1)))
        cancelled.cancel()

    async with client.stream(OPENING) as orphaned:
        await orphaned.step(Frame(0, rows(1)))
        await client.close()


async def test_a_cancelled_task_is_cancelled_and_not_given_an_error(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(OPENING) as stream:
        await stream.step(Frame(0, rows(1)))
        receiving = asyncio.create_task(stream.receive())
        await asyncio.wait({receiving}, timeout=0)

        receiving.cancel()

        with pytest.raises(asyncio.CancelledError):
            await receiving
        assert not stream.ended


async def test_a_closed_stream_takes_no_frame(client: AsyncGRPCComputeClient) -> None:
    stream = client.stream(OPENING)
    await stream.step(Frame(0, rows(1)))
    await stream.close()

    with pytest.raises(Cancelled, match="session 'one' is closed"):
        await stream.send(Frame(1, rows(1)))
    with pytest.raises(Cancelled, match="session 'one' is closed"):
        await stream.receive()


async def test_a_reply_that_is_late_ends_the_stream(client: AsyncGRPCComputeClient, host: EchoSessionHost) -> None:
    stream = client.stream(OPENING)
    await stream.step(Frame(0, rows(1)))

    with pytest.raises(TimedOut, match=rf"^{client.target} did not reply within 0.01 s; the stream is cancelled$"):
        await stream.receive(timeout=0.01)
    with pytest.raises(TimedOut):
        await stream.step(Frame(1, rows(1)))

    await asyncio.wait_for(host.sessions[0].closed.wait(), 5)


async def test_a_server_that_is_silent_times_out_the_first_frame(silent_address: str) -> None:
    async with AsyncGRPCComputeClient(silent_address, timeout=0.05) as client:
        stream = client.stream(OPENING)
        with pytest.raises(TimedOut, match=rf"{silent_address} did not take the message within 0.05 s"):
            await stream.send(Frame(0, rows(1)))


async def test_cancelling_wakes_a_sender_that_has_no_connection_yet(silent_address: str) -> None:
    async with AsyncGRPCComputeClient(silent_address) as client:
        stream = client.stream(OPENING)
        sending = asyncio.create_task(stream.send(Frame(0, rows(1))))
        await asyncio.wait({sending}, timeout=0)

        stream.cancel()

        with pytest.raises(Cancelled):
            await asyncio.wait_for(sending, 5)


async def test_a_cancelled_sender_is_cancelled_and_not_given_an_error(silent_address: str) -> None:
    async with AsyncGRPCComputeClient(silent_address) as client:
        sending = asyncio.create_task(client.stream(OPENING).send(Frame(0, rows(1))))
        await asyncio.wait({sending}, timeout=0)

        sending.cancel()

        with pytest.raises(asyncio.CancelledError):
            await sending


async def test_nobody_at_the_address_is_told_with_what_to_check() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
        async with AsyncGRPCComputeClient(address) as client:
            with pytest.raises(Unreachable, match=rf"no answer from {address}; check that a server runs there"):
                await client.stream(OPENING).step(Frame(0, rows(1)))


async def test_a_server_that_ends_the_stream_for_no_reason_is_to_blame() -> None:
    async def hang_up(_requests: object, context: grpc.aio.ServicerContext) -> None:
        await context.read()

    server = grpc.aio.server()
    handlers = {"Stream": grpc.stream_stream_rpc_method_handler(hang_up)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()

    async with AsyncGRPCComputeClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(RemoteFailure, match="ended the stream without a reason"):
            await client.stream(OPENING).step(Frame(0, rows(1)))

    await server.stop(None)


async def test_times_of_the_server_arrive_with_the_reply() -> None:
    class Timed:
        async def open(self, _opening: SessionOpening) -> "Timed":
            return self

        async def step(self, frame: Frame) -> Reply:
            return Reply(frame, queue_seconds=0.25, compute_seconds=1.5)

        async def close(self) -> None:
            pass

        def info(self) -> ServiceInfo:
            return ServiceInfo("timed", "1", "cpu")

    async with loopback(session_host=Timed()) as (_, client), client.stream(OPENING) as stream:
        reply = await stream.step(Frame(0, None))

    assert (reply.queue_seconds, reply.compute_seconds) == (0.25, 1.5)
