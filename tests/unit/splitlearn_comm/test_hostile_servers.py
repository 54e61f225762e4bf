"""What a client does with the replies of a server that means harm: typed errors, and nothing decoded or kept."""

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import grpc
import grpc.aio
import pytest
import torch

from splitlearn_comm import wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import SessionOpening
from splitlearn_comm.errors import CommError, InvalidReply, Overloaded
from splitlearn_comm.frames import Frame
from splitlearn_comm.statuses import KIND_KEY, RETRY_AFTER_KEY, error_of
from splitlearn_comm.waiting import MOST_AT_ONCE, WAITING

GOOD = pb2.StreamReply(frame=pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[2, 4], data=bytes(32))))


def reply(position: int = 0, **tensor: object) -> pb2.StreamReply:
    rows = {"dtype": pb2.DTYPE_FLOAT32, "shape": [2, 4], "data": bytes(32), **tensor}
    return pb2.StreamReply(frame=pb2.Frame(position=position, rows=pb2.Tensor(**rows)))  # type: ignore[arg-type]


def timed(seconds: float) -> pb2.StreamReply:
    return pb2.StreamReply(frame=GOOD.frame, timing=pb2.Timing(compute_seconds=seconds))


@asynccontextmanager
async def answering(replies: Sequence[bytes], info: bytes = b"") -> AsyncIterator[AsyncGRPCComputeClient]:
    """A client of a server that answers the first message of a stream with all of these."""

    async def stream(_requests: object, context: grpc.aio.ServicerContext) -> None:
        await context.read()
        for data in replies:
            await context.write(data)
        await context.read()

    async def tell(_request: bytes, _context: grpc.aio.ServicerContext) -> bytes:
        return info

    server = grpc.aio.server()
    handlers = {
        "Stream": grpc.stream_stream_rpc_method_handler(stream),
        "Compute": grpc.stream_stream_rpc_method_handler(stream),
        "GetServiceInfo": grpc.unary_unary_rpc_method_handler(tell),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(wire.SERVICE, handlers),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with AsyncGRPCComputeClient(f"127.0.0.1:{port}") as client:
            yield client
    finally:
        await server.stop(None)


BAD_REPLIES: dict[str, pb2.StreamReply | bytes] = {
    "no message": b"\xff\xff\xff",
    "text that is not UTF-8": b"\x12\x03\x12\x01\xff",
    "another position": reply(position=1),
    "fewer rows": reply(shape=[1, 4], data=bytes(16)),
    "wider rows": reply(shape=[2, 8], data=bytes(64)),
    "no rows": pb2.StreamReply(frame=pb2.Frame()),
    "bytes that do not fit": reply(data=bytes(31)),
    "int8 of very many rows": reply(shape=[600_000, 1], data=bytes(3_000_000), codec=pb2.CODEC_INT8),
    "a codec that was not asked for": reply(data=bytes(16), codec=pb2.CODEC_BF16),
    "a shape that cannot be": reply(shape=[2**62, 2**62]),
    "a time that is none": timed(math.nan),
    "a time for ever": timed(math.inf),
    "a time before it began": timed(-1.0),
    "an opening that was not asked for": pb2.StreamReply(opened=pb2.Opened(reached=1)),
}


async def test_words_that_a_frame_waits_are_no_replies_and_a_flood_of_them_ends_the_stream() -> None:
    async with answering([*[WAITING] * 3, GOOD.SerializeToString()]) as client:
        stream = client.stream(SessionOpening("patient", "", 8))
        assert (await stream.step(Frame(0, torch.zeros(2, 4)))).frame.position == 0
        await stream.close()
    async with answering([WAITING] * (MOST_AT_ONCE * 2)) as client:
        stream = client.stream(SessionOpening("flooded", "", 8))
        with pytest.raises(InvalidReply):
            await stream.step(Frame(0, torch.zeros(2, 4)))


@pytest.mark.parametrize("what", BAD_REPLIES)
async def test_a_reply_that_does_not_answer_its_frame_ends_the_stream_by_the_servers_fault(what: str) -> None:
    bad = BAD_REPLIES[what]
    async with answering([bad if isinstance(bad, bytes) else bad.SerializeToString()]) as client:
        stream = client.stream(SessionOpening("one", "", 8))
        for _ in range(2):
            with pytest.raises(InvalidReply) as caught:
                await stream.step(Frame(0, torch.zeros(2, 4)))
        assert caught.value.fault == "server"
        assert len(str(caught.value)) < 1100
        await stream.close()


async def test_more_replies_than_frames_end_the_stream() -> None:
    async with answering([GOOD.SerializeToString()] * 1000) as client:
        stream = client.stream(SessionOpening("one", "", 8))
        assert (await stream.step(Frame(0, torch.zeros(2, 4)))).frame.row_count == 2
        with pytest.raises(InvalidReply, match="more messages than were requested"):
            await stream.receive()


@pytest.mark.parametrize("reached", [-1, 9, 2**62])
async def test_a_session_never_begins_with_more_rows_than_it_may_have(reached: int) -> None:
    opened = pb2.StreamReply(opened=pb2.Opened(reached=reached)).SerializeToString()
    async with answering([opened]) as client:
        stream = client.stream(SessionOpening("one", "", 8, block_hashes=(b"n",)))
        with pytest.raises(InvalidReply, match=f"begins with {reached}"):
            await stream.open()
        await stream.close()


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(math.nan, None), (math.inf, None), (-math.inf, None), (-1.0, None), (0.0, None), (2.5, 2.5), (1e300, 3600.0)],
)
async def test_a_time_to_wait_is_one_within_an_hour_or_none(seconds: float, expected: float | None) -> None:
    error = pb2.Error(code=pb2.CODE_RESOURCE_EXHAUSTED, kind="Overloaded", message="m", retry_after_seconds=seconds)
    async with answering([pb2.StreamReply(error=error).SerializeToString()]) as client:
        stream = client.stream(SessionOpening("one", "", 8))
        with pytest.raises(Overloaded) as caught:
            await stream.step(Frame(0, torch.zeros(2, 4)))
        stream.cancel()
    told = error_of(
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "m", ((KIND_KEY, "Overloaded"), (RETRY_AFTER_KEY, str(seconds)))), "a:1"
    )
    assert caught.value.retry_after == told.retry_after == expected


def test_a_time_to_wait_that_is_no_number_is_none() -> None:
    status = grpc.StatusCode.RESOURCE_EXHAUSTED, "m", ((KIND_KEY, "Overloaded"), (RETRY_AFTER_KEY, "soon"))
    assert error_of(status, "a:1").retry_after is None


async def test_a_servers_words_are_clipped_to_one_line() -> None:
    error = pb2.Error(code=pb2.CODE_INTERNAL, kind="RemoteFailure", message="a\nb" + "x" * 2_000_000)
    async with answering([pb2.StreamReply(error=error).SerializeToString()]) as client:
        stream = client.stream(SessionOpening("one", "", 8))
        with pytest.raises(CommError) as caught:
            await stream.step(Frame(0, torch.zeros(2, 4)))
        stream.cancel()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1100


@pytest.mark.parametrize(
    "change",
    [
        lambda info: info.attributes.update({str(i): "" for i in range(300)}),
        lambda info: info.attributes.update({"k": "v" * 20_000}),
        lambda info: info.attributes.update({"k" * 2000: ""}),
        lambda info: setattr(info, "fingerprint", "f" * 2000),
        lambda info: setattr(info, "instance", "i" * 65),
        lambda info: setattr(info, "instance", "two\nlines"),
        lambda info: setattr(info, "total_requests", -1),
        lambda info: setattr(info, "uptime_seconds", math.nan),
    ],
)
async def test_facts_of_a_server_are_bounded(change: Callable[[pb2.ServiceInfo], None]) -> None:
    info = pb2.ServiceInfo(service_name="one")
    change(info)
    async with answering([], info.SerializeToString()) as client:
        with pytest.raises(InvalidReply):
            await client.service_info()


@pytest.mark.parametrize("field", ["service_name", "version", "device", "fingerprint", "attribute", "name"])
async def test_facts_of_a_server_fit_into_a_line_of_a_log(field: str) -> None:
    text = "two\nlines \x1b[2J" + "x" * (16_000 if field == "attribute" else 1000)
    info = pb2.ServiceInfo(service_name="one")
    if field == "attribute":
        info.attributes["damaged"] = text
    elif field == "name":
        info.attributes[text] = ""
    else:
        setattr(info, field, text)
    async with answering([], info.SerializeToString()) as client:
        told = await client.service_info()
    texts = [
        told.service_name,
        told.version,
        told.device,
        told.fingerprint,
        *told.attributes,
        *told.attributes.values(),
    ]
    assert any(each.startswith(r"two\nlines \x1b[2Jxxx") for each in texts)
    assert all(each.isprintable() and len(each) < 1100 for each in texts)


async def test_a_compute_that_is_answered_by_nonsense_is_the_servers_fault() -> None:
    bad = pb2.ComputeReply(tensor=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=[2**40], data=bytes(8)))
    async with answering([bad.SerializeToString()]) as client:
        with pytest.raises(InvalidReply):
            await client.compute(torch.zeros(1))
