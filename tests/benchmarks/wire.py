"""`make bench`, third part: what the wire costs beside a memcpy, a bare gRPC echo and protobuf's `repeated float`."""

import ctypes
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from statistics import median

import grpc
import grpc.aio
import numpy as np
import torch
import uvloop
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import Message

from splitlearn_comm import ComputeFunction, wire
from splitlearn_comm.core import CODECS, PLAIN, TensorCodec, unpack
from splitlearn_comm.options import channel_options, server_options
from splitlearn_comm.testing import loopback
from tests.benchmarks.contenders import RESULTS
from tests.benchmarks.paced_echo import paced_round_trips

ROUNDS = 25
COPIES_PER_ROUND = 8
CALLS_PER_ROUND = 40
ROUNDS_OF_FLOATS = 5


class Echo(ComputeFunction):
    def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
        return input_tensor

    def get_info(self) -> Mapping[str, object]:
        return {}


def medians(contenders: Mapping[str, Callable[[], object]], rounds: int, repeats: int = 1) -> dict[str, float]:
    """Seconds of each contender, in turns."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(rounds + 1):
        for name, run in contenders.items():
            for _ in range(repeats):
                began = time.perf_counter()
                run()
                times[name].append(time.perf_counter() - began)
    # the first round warms up
    return {name: median(found[repeats:]) for name, found in times.items()}


def copying() -> str:
    x = torch.randn(1, 512, 4096).bfloat16()
    target = torch.empty_like(x)
    message = wire.encode_compute(x, PLAIN)
    found = medians(
        {
            "memcpy": lambda: ctypes.memmove(target.data_ptr(), x.data_ptr(), x.nbytes),
            "codec": lambda: unpack(PLAIN.pack(x)),
            "encode message": lambda: wire.encode_compute(x, PLAIN),
            "decode message": lambda: wire.decode_compute(message),
        },
        ROUNDS,
        COPIES_PER_ROUND,
    )
    whole = found["encode message"] + found["decode message"]
    return (
        f"- Codec, encode and decode of 1x512x4096 bf16: {1e6 * found['codec']:.0f} us, a memcpy of the same bytes "
        f"{1e6 * found['memcpy']:.0f} us: **{found['memcpy'] / found['codec']:.2f}x** of its speed (goal: 0.5).\n"
        "- To the bytes of a gRPC message and back, protobuf's own copies included: "
        f"{1e6 * found['encode message']:.0f} + {1e6 * found['decode message']:.0f} us, "
        f"{found['memcpy'] / whole:.2f}x.\n"
    )


def repeated_float() -> type[Message]:
    """`message Floats { repeated int64 shape = 1; repeated float data = 2; }`"""
    file = descriptor_pb2.FileDescriptorProto(name="floats.proto", syntax="proto3")
    field = descriptor_pb2.FieldDescriptorProto
    message = file.message_type.add(name="Floats")
    message.field.add(name="shape", number=1, label=field.LABEL_REPEATED, type=field.TYPE_INT64)
    message.field.add(name="data", number=2, label=field.LABEL_REPEATED, type=field.TYPE_FLOAT)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Floats"))


def against_floats() -> str:
    x = torch.randn(1, 128, 4096)
    floats = repeated_float()

    def through_floats() -> torch.Tensor:
        sent = floats()
        sent.shape.extend(x.shape)
        sent.data.extend(x.flatten().tolist())
        got = floats.FromString(sent.SerializeToString())
        return torch.from_numpy(np.array(got.data, dtype=np.float32)).reshape(tuple(got.shape))

    def through_bytes() -> torch.Tensor:
        return wire.decode_compute(wire.encode_compute(x, PLAIN))[0]

    if not torch.equal(through_floats(), through_bytes()):
        raise ValueError("the two ways do not carry the same values")
    found = medians({"floats": through_floats, "bytes": through_bytes}, ROUNDS_OF_FLOATS)
    return (
        f"- 1x128x4096 float32 to message bytes and back: {1e3 * found['bytes']:.2f} ms, as `repeated float` "
        f"{1e3 * found['floats']:.1f} ms: **{found['floats'] / found['bytes']:.0f} times** as fast (goal: 10).\n"
    )


async def echo(data: bytes, _context: grpc.aio.ServicerContext) -> bytes:
    return data


async def echo_stream(_requests: object, context: grpc.aio.ServicerContext) -> None:
    while (data := await context.read()) is not grpc.aio.EOF:
        await context.write(data)


async def round_trips() -> str:
    x = torch.randn(1, 1, 4096)
    payload = wire.encode_compute(x, PLAIN)
    server = grpc.aio.server(options=server_options())
    methods = {
        "Echo": grpc.unary_unary_rpc_method_handler(echo),
        "EchoStream": grpc.stream_stream_rpc_method_handler(echo_stream),
    }
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", methods),))
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    async with (
        grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=channel_options()) as channel,
        loopback(compute_fn=Echo()) as (_, client),
    ):
        call = channel.unary_unary("/bare.Bare/Echo")
        stream = channel.stream_stream("/bare.Bare/EchoStream")()

        async def over_stream() -> None:
            await stream.write(payload)
            await stream.read()

        found = await in_turns(
            {"call": lambda: call(payload), "stream": over_stream, "compute": lambda: client.compute(x)}
        )
        stream.cancel()
    await server.stop(None)
    return (
        f"- `compute()` of 1x1x4096 float32: {1e6 * found['compute']:.0f} us, a bare grpc.aio echo of the same bytes "
        f"{1e6 * found['call']:.0f} us: **{found['compute'] / found['call']:.2f}x** (goal: at most 1.15).\n"
        f"- A bare echo on an open stream, which is what compute() uses: {1e6 * found['stream']:.0f} us. The rest is "
        "codecs and the worker thread.\n"
    )


async def in_turns(contenders: Mapping[str, Callable[[], Awaitable[object]]]) -> dict[str, float]:
    """As `medians`, awaited."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS + 1):
        for name, run in contenders.items():
            for _ in range(CALLS_PER_ROUND):
                began = time.perf_counter()
                await run()
                times[name].append(time.perf_counter() - began)
    return {name: median(found[CALLS_PER_ROUND:]) for name, found in times.items()}


def codecs() -> str:
    lines = [
        "| codec | 64x2048 of | bytes per value | pack, us | unpack, us | greatest error |\n",
        "|---|---|---|---|---|---|\n",
    ]
    for dtype in (torch.bfloat16, torch.float32):
        x = torch.randn(64, 2048, generator=torch.Generator().manual_seed(0)).to(dtype)
        lines += [codec_line(codec, x) for codec in CODECS.values() if codec.pack(x).codec == codec.name]
    return "".join(lines)


def codec_line(codec: TensorCodec, x: torch.Tensor) -> str:
    packed = codec.pack(x)
    found = medians({"pack": lambda: codec.pack(x), "unpack": lambda: unpack(packed)}, ROUNDS)
    error = (unpack(packed).float() - x.float()).abs().max().item()
    return (
        f"| {codec.name} | {str(x.dtype).removeprefix('torch.')} | {len(packed.data) / x.numel():.2f} "
        f"| {1e6 * found['pack']:.0f} | {1e6 * found['unpack']:.0f} | {error:.1e} |\n"
    )


def main() -> None:
    torch.set_num_threads(1)
    text = (
        f"# Speed of the wire, {datetime.now(UTC):%Y-%m-%d}\n\n"
        f"`make bench`: {os.cpu_count()} cores, one thread for torch, client and server on loopback, in one process "
        "where nothing else is said; medians, contenders in turns.\n\n"
        f"{copying()}{uvloop.run(round_trips())}{paced_round_trips()}{against_floats()}\n"
        f"Codecs on normally distributed values:\n\n{codecs()}"
    )
    print(text)
    (RESULTS / f"wire_{datetime.now(UTC):%Y-%m-%d}.md").write_text(text)


if __name__ == "__main__":
    main()
