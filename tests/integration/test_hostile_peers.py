"""A trunk in a process of its own against clients that mean harm, and what it costs the others.

Each abuse ends in a typed refusal, gives its memory back, and leaves a session beside it served.
"""

import asyncio
import json
import os
import sys
import time
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import psutil
import pytest
import torch

from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, Frame, SessionOpening, wire
from splitlearn_comm._proto import compute_pb2 as pb2
from splitlearn_comm.statuses import KIND_KEY
from support.running_split import PATIENCE, free_port, until

D = 64
MIB = 2**20
LIMIT = 4 * MIB


@dataclass(frozen=True)
class Victim:
    """The trunk's process, and a client of it without limits of its own."""

    address: str
    process: psutil.Process
    log: Path
    fingerprint: str
    method: Callable[[], Any]

    @property
    def rss(self) -> int:
        return int(self.process.memory_info().rss)

    def opening(self, **fields: Any) -> pb2.Open:
        return pb2.Open(**{"session_id": "hostile", "fingerprint": self.fingerprint, "max_length": 100, **fields})

    async def outcome(self, *requests: bytes | pb2.StreamRequest) -> str:
        """What a stream with these requests comes to: the last reply, or the error that ended it."""
        call, last = self.method(), "no reply"
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
            for request in requests:
                await call.write(request if isinstance(request, bytes) else request.SerializeToString())
            await call.done_writing()
            while (data := await call.read()) is not grpc.aio.EOF:
                reply = pb2.StreamReply.FromString(data)
                last = reply.error.kind or str(reply.WhichOneof("outcome"))
        code = await call.code()
        if code is grpc.StatusCode.OK:
            return last
        return str(dict(await call.trailing_metadata()).get(KIND_KEY, code.name))


@pytest.fixture(scope="module")
def event_loop_policy() -> asyncio.AbstractEventLoopPolicy:
    return asyncio.DefaultEventLoopPolicy()


@asynccontextmanager
async def victim_trunk(weights: Path, log: Path) -> AsyncIterator[Victim]:
    port = free_port()
    words = ("-m", "splitlearn_cli", "--log-format", "json", "trunk", weights, "--port", port, "--metrics-port", 0)
    address, options = f"127.0.0.1:{port}", (("grpc.max_send_message_length", -1),)
    with log.open("wb") as file:
        process = await asyncio.create_subprocess_exec(
            sys.executable, *map(str, words), stderr=file, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )
    try:
        await until(lambda: b'"serving"' in log.read_bytes(), within=60)
        async with (
            AsyncGRPCComputeClient(address) as client,
            grpc.aio.insecure_channel(address, options=options) as channel,
        ):
            info = await client.service_info()
            method = channel.stream_stream(f"/{wire.SERVICE}/Stream")
            yield Victim(address, psutil.Process(process.pid), log, info.fingerprint, method)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest.fixture
async def victim(tiny_weights: Path, tmp_path: Path) -> AsyncIterator[Victim]:
    async with victim_trunk(tiny_weights, tmp_path / "log") as victim:
        yield victim


async def waits(stream: ClientStream, over: asyncio.Event) -> float:
    """The longest that a session waited for one row, until `over`."""
    longest, row_TD = 0.0, torch.ones(1, D)
    while not over.is_set():
        began = time.perf_counter()
        assert (await stream.step(Frame(0, row_TD))).frame.rows is not None
        longest = max(longest, time.perf_counter() - began)
    return longest


async def beside(victim: Victim, abuse: Callable[[], Awaitable[None]]) -> tuple[float, float]:
    """Runs the abuse beside an honest session; how long that waited at most, and how much memory stayed."""
    async with (
        AsyncGRPCComputeClient(victim.address, timeout=PATIENCE) as client,
        client.stream(SessionOpening("honest", victim.fingerprint, 100)) as stream,
    ):
        await stream.step(Frame(0, torch.ones(64, D)))
        before, over = victim.rss, asyncio.Event()
        waiting = asyncio.create_task(waits(stream, over))
        await abuse()
        over.set()
        longest = await waiting
        with suppress(TimeoutError):
            await until(lambda: victim.rss < 1.1 * before, within=5)
        return longest, victim.rss / before


def rows(shape: list[int], data: bytes, codec: Any = pb2.CODEC_NONE) -> pb2.StreamRequest:
    return pb2.StreamRequest(frame=pb2.Frame(rows=pb2.Tensor(dtype=1 + 1, shape=shape, data=data, codec=codec)))


async def first_messages(victim: Victim, n: int, size: int, error: str) -> None:
    opening = victim.opening(fingerprint="other")
    request = pb2.StreamRequest(open=opening, frame=rows([size // 256, D], bytes(size // 256 * 256)).frame)
    outcomes = await asyncio.gather(*(victim.outcome(request) for _ in range(n)))
    assert set(outcomes) == {error}
