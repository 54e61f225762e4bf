"""What a round trip costs with nothing of ours in it, at the pace of tokens: both ends have slept before it."""

import asyncio
import multiprocessing
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from statistics import median

import grpc
import grpc.aio
import uvloop

PAUSES = (0.0, 0.005, 0.025)
TRIPS = 100
WARM_UPS = 20
# a row of 896 numbers in bf16
ROW = bytes(1792)
METHOD = "/bare.Bare/Paced"


async def _echo(_requests: object, context: grpc.aio.ServicerContext) -> None:
    """After the pause that the message begins with; the reply begins with how long that was."""
    while (data := await context.read()) is not grpc.aio.EOF:
        began = time.perf_counter()
        (pause,) = struct.unpack_from("d", data)
        if pause:
            await asyncio.sleep(pause)
        await context.write(struct.pack("d", time.perf_counter() - began) + ROW)


async def _serve(told: Connection) -> None:
    server = grpc.aio.server()
    methods = {"Paced": grpc.stream_stream_rpc_method_handler(_echo)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("bare.Bare", methods),))
    told.send(server.add_insecure_port("127.0.0.1:0"))
    await server.start()
    await server.wait_for_termination()


def _run_server(told: Connection) -> None:
    uvloop.run(_serve(told))


@contextmanager
def _server() -> Iterator[int]:
    """The port of a server in a process of its own."""
    spawning = multiprocessing.get_context("spawn")
    ours, theirs = spawning.Pipe()
    process = spawning.Process(target=_run_server, args=(theirs,), daemon=True)
    process.start()
    try:
        yield ours.recv()
    finally:
        process.terminate()
        process.join()


async def _trips(port: int, pause: float) -> float:
    """Seconds of one, without the pauses."""
    times = []
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        stream = channel.stream_stream(METHOD)()
        for _ in range(TRIPS):
            if pause:
                await asyncio.sleep(pause)
            began = time.perf_counter()
            await stream.write(struct.pack("d", pause) + ROW)
            reply = await stream.read()
            times.append(time.perf_counter() - began - struct.unpack_from("d", reply)[0])
        stream.cancel()
    return median(times[WARM_UPS:])


def paced_round_trips() -> str:
    """Of one row on an open stream, to another process and back."""
    with _server() as port:
        found = {pause: uvloop.run(_trips(port, pause)) for pause in PAUSES}
    each = ", ".join(f"{1e3 * pause:.0f} ms: {1e3 * seconds:.2f} ms" for pause, seconds in found.items())
    return f"- A bare echo of one row in another process, both ends having slept before it for {each}.\n"


if __name__ == "__main__":
    print(paced_round_trips())
