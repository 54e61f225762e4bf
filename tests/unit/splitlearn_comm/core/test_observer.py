"""What a server reports for counting: sessions, and bytes by codec."""

from collections import Counter

import grpc
import grpc.aio
import pytest
import torch

from splitlearn_comm import wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import CODECS, ComputeOptions, ModelComputeFunction, NoObserver, SessionOpening, codec_named
from splitlearn_comm.frames import Frame
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost, loopback


class Counting(NoObserver):
    def __init__(self) -> None:
        self.opened = self.closed = 0
        self.received: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        self.refusals: list[str] = []

    def session_opened(self) -> None:
        self.opened += 1

    def session_closed(self) -> None:
        self.closed += 1

    def bytes_in(self, count: int, codec: str) -> None:
        self.received[codec] += count

    def bytes_out(self, count: int, codec: str) -> None:
        self.sent[codec] += count

    def refused(self, kind: str) -> None:
        self.refusals.append(kind)


@pytest.mark.parametrize("asks_first", [False, True])
@pytest.mark.parametrize("codec", CODECS)
async def test_a_server_counts_what_its_client_counts_by_the_codec_of_the_session(codec: str, asks_first: bool) -> None:
    counted = Counting()
    async with (
        loopback(session_host=EchoSessionHost(), observer=counted) as (_, client),
        client.stream(SessionOpening("one", "echo", 64, codec, asks_first=asks_first)) as stream,
    ):
        if asks_first:
            await stream.open()
        await stream.step(Frame(0, torch.ones(3, 2)))
        await stream.step(Frame(3, None))

    assert counted.received == {codec: stream.bytes_sent}
    assert counted.sent == {codec: stream.bytes_received}
    assert min(stream.bytes_sent, stream.bytes_received) > 3 * 2
    assert (counted.opened, counted.closed) == (1, 1)


async def test_messages_without_a_known_codec_count_as_those_with_none() -> None:
    # field 1 is the opening, its field 4 the codec, whose number 99 is nobody's
    unknown, nonsense = bytes([0x0A, 2, 0x20, 99]), b"no message"
    counted = Counting()
    async with (
        AsyncGRPCComputeServer(session_host=EchoSessionHost(), observer=counted) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        assert pb2.StreamRequest.FromString(unknown).open.codec == 99
        for message in (unknown, nonsense):
            call = channel.stream_stream(f"/{wire.SERVICE}/Stream")()
            await call.write(message)
            assert await call.code() is grpc.StatusCode.INVALID_ARGUMENT

    assert counted.received == {"none": len(unknown) + len(nonsense)}


async def test_computes_count_by_the_codec_that_they_ask_for_and_replies_by_theirs() -> None:
    counted, x = Counting(), torch.ones(64, 64)
    async with AsyncGRPCComputeServer(
        compute_fn=ModelComputeFunction(torch.nn.Identity()),
        compute_options=ComputeOptions(codec=codec_named("int8")),
        observer=counted,
    ) as server:
        for codec in ("bf16", "none"):
            async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", codec=codec_named(codec)) as client:
                await client.compute(x)

    n = x.numel()
    assert set(counted.received) == {"bf16", "none"}
    assert 2 * n < counted.received["bf16"] < 4 * n < counted.received["none"]
    # who asks for none gets what the server chose
    assert set(counted.sent) == {"bf16", "int8"}
    assert n < counted.sent["int8"] < 2 * n < counted.sent["bf16"]


async def test_a_compute_that_cannot_be_read_counts_as_one_without_a_codec() -> None:
    counted = Counting()
    async with (
        AsyncGRPCComputeServer(compute_fn=ModelComputeFunction(torch.nn.Identity()), observer=counted) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        call = channel.stream_stream(f"/{wire.SERVICE}/Compute")()
        await call.write(b"no message")
        answer = await call.read()
        assert pb2.ComputeReply.FromString(answer).error.kind == "InvalidRequest"
        await call.done_writing()
        assert await call.code() is grpc.StatusCode.OK

    assert (counted.received, counted.sent) == ({"none": len(b"no message")}, {"none": len(answer)})
    assert counted.refusals == ["InvalidRequest"]
