"""A trunk in a process of its own against clients that mean harm, and what it costs the others.

Each abuse ends in a typed refusal, gives its memory back, and leaves a session beside it served.
"""

import asyncio
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

from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, Frame, Overloaded, SessionOpening, wire
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
    return pb2.StreamRequest(
        frame=pb2.Frame(rows=pb2.Tensor(dtype=pb2.DTYPE_FLOAT32, shape=shape, data=data, codec=codec))
    )


async def every(victim: Victim, n: int, *requests: bytes | pb2.StreamRequest) -> set[str]:
    """The outcomes of `n` such streams at a time."""
    return set(await asyncio.gather(*(victim.outcome(*requests) for _ in range(n))))


def stranger(victim: Victim, size: int) -> pb2.StreamRequest:
    rows_of = rows([size // 256, D], bytes(size // 256 * 256))
    return pb2.StreamRequest(open=victim.opening(fingerprint="other"), frame=rows_of.frame)


def abuses(victim: Victim) -> dict[str, tuple[Callable[[], Awaitable[set[str]]], set[str]]]:
    """What is done to the trunk, and what it must come to."""
    opened = pb2.StreamRequest(open=victim.opening())
    bomb = zlib.compress(bytes(64 * MIB), 9)
    huge, long_name = bytes(50 * MIB), bytes(3 * MIB)
    ones, zlib_codec = bytes(3 * MIB), pb2.CODEC_ZLIB

    def keep(name: bytes) -> pb2.StreamRequest:
        return pb2.StreamRequest(keep=pb2.Keep(names=[name]))

    def named(session_id: str) -> pb2.StreamRequest:
        return pb2.StreamRequest(open=victim.opening(session_id=session_id))

    return {
        "first messages of 60 MiB": (lambda: every(victim, 6, stranger(victim, 60 * MIB)), {"RESOURCE_EXHAUSTED"}),
        "first messages of 4 MiB": (lambda: every(victim, 30, stranger(victim, LIMIT - 8192)), {"FingerprintMismatch"}),
        "a name of 50 MiB": (lambda: every(victim, 3, opened, keep(huge)), {"RESOURCE_EXHAUSTED"}),
        "a name of 3 MiB": (lambda: every(victim, 12, opened, keep(long_name)), {"InvalidRequest"}),
        "rows of one value in int8": (
            lambda: every(victim, 4, opened, rows([len(ones) // 5, 1], ones[: len(ones) // 5 * 5], pb2.CODEC_INT8)),
            {"SessionTooLong"},
        ),
        "zlib of 64 MiB in 64 KiB": (
            lambda: every(victim, 30, opened, *[rows([64 * MIB // 256, D], bomb, zlib_codec)] * 4),
            {"InvalidTensor"},
        ),
        "an id of 3 MB": (lambda: every(victim, 4, named("x" * 3_000_000)), {"InvalidRequest"}),
        "an id of two lines": (lambda: every(victim, 1, named('one\n{"event": "forged"}')), {"InvalidRequest"}),
        "a million dimensions": (lambda: every(victim, 4, opened, rows([1] * 1_000_000, b"")), {"InvalidTensor"}),
        "a million names": (
            lambda: every(victim, 4, pb2.StreamRequest(open=victim.opening(prefix=[b""] * 1_000_000))),
            {"InvalidRequest"},
        ),
    }


async def test_every_abuse_is_refused_in_kind_gives_its_memory_back_and_holds_up_nobody(victim: Victim) -> None:
    # what grpc takes once, and keeps
    await every(victim, 4, stranger(victim, LIMIT - 8192))
    for what, (abuse, expected) in abuses(victim).items():
        outcomes: set[str] = set()

        async def run(abuse: Callable[[], Awaitable[set[str]]] = abuse, outcomes: set[str] = outcomes) -> None:
            outcomes |= await abuse()

        longest, growth = await beside(victim, run)
        assert outcomes == expected, what
        assert growth < 1.1, what
        # generous, because this process prepares and sends what the trunk refuses
        assert longest < PATIENCE, what
    log = victim.log.read_text()
    assert "forged" not in log
    assert max(map(len, log.splitlines())) < 5000


async def test_streams_that_send_no_frame_are_bounded_and_keep_nobody_out(victim: Victim) -> None:
    async def flood() -> None:
        request = pb2.StreamRequest(open=victim.opening()).SerializeToString()
        calls = [victim.method() for _ in range(1500)]
        for call in calls:
            with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                await call.write(request)
        await until(lambda: sum(call.done() for call in calls) >= 1500 - 1024)
        refused = {dict(await call.trailing_metadata()).get(KIND_KEY) for call in calls if call.done()}
        # grpc puts an error of its own in the place of a refusal that arrives while the client writes (issue 36066)
        assert "Overloaded" in refused <= {"Overloaded", None}
        # a place that is only held goes to the one that comes
        async with AsyncGRPCComputeClient(victim.address) as client:
            for _ in range(100):
                with suppress(Overloaded):
                    async with client.stream(SessionOpening("late", victim.fingerprint, 8)) as late:
                        assert (await late.step(Frame(0, torch.ones(1, D)))).frame.rows is not None
                        break
            else:
                pytest.fail("an honest session found no place")
        for call in calls:
            call.cancel()

    _, growth = await beside(victim, flood)
    assert growth < 1.1


async def test_a_zombie_that_has_kept_its_rows_reads_nothing_of_others(victim: Victim) -> None:
    first = rows([64, D], torch.ones(64, D).numpy().tobytes())
    opening = pb2.StreamRequest(open=victim.opening(), frame=first.frame)
    keep = pb2.StreamRequest(keep=pb2.Keep(names=[b"one", b"two"]))
    after = pb2.StreamRequest(frame=rows([1, D], bytes(4 * D)).frame)
    after.frame.position = 64

    assert await victim.outcome(opening, keep, after) == "SessionClosed"
