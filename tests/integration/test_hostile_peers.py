"""A trunk, a client that means harm and an honest one, each in a process of its own.

Each abuse ends in typed refusals, gives its memory back, and holds the honest session up for a second at most.
"""

import asyncio
import json
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
import pytest_asyncio
import torch

from splitlearn_comm import AsyncGRPCComputeClient, ClientStream, Frame, Overloaded, SessionOpening
from support import abuser
from support.abuser import OPENS, WIDTH
from support.running_split import PATIENCE, free_port, until

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(300)]

# what an honest session may wait longer beside an abuse, in seconds
LONGER = 1.0
STREAMS = 1024
TOO_LARGE = "RESOURCE_EXHAUSTED"

REFUSALS = {
    "first messages of 60 MiB": (TOO_LARGE, 30),
    "first messages of 4 MiB": ("FingerprintMismatch", 30),
    "hashes of 50 MiB": (TOO_LARGE, 12),
    "hashes of 3 MiB": ("InvalidRequest", 12),
    "130,000 hashes": ("InvalidRequest", 120),
    "a million hashes": ("InvalidRequest", 60),
    "int8 of [13000000, 1]": (TOO_LARGE, 12),
    "int8 of [600000, 1]": ("SessionTooLong", 30),
    "zlib that claims 64 MiB": ("InvalidTensor", 30),
    "zlib that claims 4 MiB": ("SessionTooLong", 30),
    "zlib that hides 64 MiB": ("InvalidTensor", 30),
    "a million dimensions": ("InvalidTensor", 60),
    "ids of 5 MB": (TOO_LARGE, 12),
    "ids of 3 MB": ("InvalidRequest", 12),
    "ids of two lines": ("InvalidRequest", 1),
    # and nothing of the rows that others have by then
    "frames after finish": ("SessionClosed", 12),
}


@dataclass
class Longest:
    """The longest wait of an honest session for one row.

    `busy` is what the trunk's process worked meanwhile, in CPU seconds of all its threads. On a machine with cores to
    spare a wait is no longer than that. Unlike the seconds of a clock it stays the same where other processes take the
    cores, which adds seconds that no abuse is the cause of.
    """

    clock: float = 0.0
    busy: float = 0.0


@dataclass(frozen=True)
class Scene:
    """All three of them, and how long the honest one waits while nobody does any harm."""

    address: str
    fingerprint: str
    log: Path
    trunk: psutil.Process
    abuser: asyncio.subprocess.Process
    honest: ClientStream
    usual: Longest

    @property
    def rss(self) -> int:
        return int(self.trunk.memory_info().rss)

    async def abuser_does(self, command: str, what: str = "") -> Any:
        assert self.abuser.stdin is not None
        assert self.abuser.stdout is not None
        self.abuser.stdin.write(f"{command} {what}\n".encode())
        return json.loads(await self.abuser.stdout.readline())

    async def step(self, longest: Longest) -> None:
        """One row of the honest session."""
        clock, busy = time.perf_counter(), cpu_seconds(self.trunk)
        assert (await self.honest.step(Frame(0, torch.ones(1, WIDTH)))).frame.rows is not None
        longest.clock = max(longest.clock, time.perf_counter() - clock)
        longest.busy = max(longest.busy, cpu_seconds(self.trunk) - busy)

    async def abuse(self, what: str) -> dict[str, int]:
        """The refusals. Asserts that the honest session got on all the while."""
        await self.abuser_does("prepare", what)
        longest, abusing = Longest(), asyncio.create_task(self.abuser_does("abuse", what))
        try:
            while not abusing.done():
                await self.step(longest)
        finally:
            refusals: dict[str, int] = await abusing
        assert longest.busy <= self.usual.busy + LONGER, longest
        # generous: what does not work, but hangs
        assert longest.clock <= self.usual.clock + PATIENCE, longest
        return refusals


def cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@asynccontextmanager
async def running(*words: object, **pipes: Any) -> AsyncIterator[asyncio.subprocess.Process]:
    """A Python process, killed at the end."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = await asyncio.create_subprocess_exec(sys.executable, *map(str, words), **pipes, env=environment)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.communicate()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene(tiny_weights: Path, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Scene]:
    port, log = free_port(), tmp_path_factory.mktemp("hostile") / "log"
    address, pipe = f"127.0.0.1:{port}", asyncio.subprocess.PIPE
    words = ("-m", "splitlearn_cli", "--log-format", "json", "trunk", tiny_weights, "--port", port, "--metrics-port", 0)
    with log.open("wb") as file:
        async with (
            running(*words, stderr=file) as trunk,
            running(abuser.__file__, address, stdin=pipe, stdout=pipe) as abuses,
            AsyncGRPCComputeClient(address, timeout=PATIENCE + 10) as client,
        ):
            await until(lambda: b'"serving"' in log.read_bytes(), within=240)
            fingerprint = (await client.service_info()).fingerprint
            async with client.stream(SessionOpening("honest", fingerprint, 100)) as honest:
                await honest.step(Frame(0, torch.ones(64, WIDTH)))
                process, usual = psutil.Process(trunk.pid), Longest()
                scene = Scene(address, fingerprint, log, process, abuses, honest, usual)
                for _ in range(20):
                    await scene.step(usual)
                at_first = scene.rss
                # what grpc takes once, and keeps
                await scene.abuse("first messages of 4 MiB")
                await until(lambda: scene.rss < 1.1 * at_first)
                yield scene


@asynccontextmanager
async def memory_comes_back(scene: Scene) -> AsyncIterator[None]:
    before = scene.rss
    yield
    with suppress(TimeoutError):
        await until(lambda: scene.rss <= 1.1 * before)
    assert scene.rss <= 1.1 * before


@pytest.mark.parametrize("what", REFUSALS)
async def test_an_abuse_gets_a_typed_error_frees_its_memory_and_delays_no_other_session(
    scene: Scene, what: str
) -> None:
    kind, n = REFUSALS[what]
    async with memory_comes_back(scene):
        assert await scene.abuse(what) == {kind: n}
    log = scene.log.read_text()
    assert "forged" not in log
    assert max(map(len, log.splitlines())) < 5000


async def test_streams_without_a_frame_are_limited_and_block_no_other_client(scene: Scene) -> None:
    async with memory_comes_back(scene):
        refusals = await scene.abuse("opens")
        assert refusals.keys() == {"Overloaded"}
        # a stream that was evicted for a later one hears of it a moment after that one was let in
        async with asyncio.timeout(PATIENCE):
            while OPENS - sum(refusals.values()) > STREAMS:
                refusals = await scene.abuser_does("refused")
        # a place that is only held goes to the one that comes
        async with AsyncGRPCComputeClient(scene.address) as client:
            # for a second after its opening each of them counts as a session that will have rows
            deadline, is_served = time.monotonic() + PATIENCE, False
            while not is_served:
                assert time.monotonic() < deadline, "an honest session found no place"
                with suppress(Overloaded):
                    async with client.stream(SessionOpening("late", scene.fingerprint, 8)) as late:
                        is_served = (await late.step(Frame(0, torch.ones(1, WIDTH)))).frame.rows is not None
        await scene.abuser_does("release")
