"""One round: a fleet, a client service, a load, and the faults of one seed, or restarts of all replicas in turn."""

import asyncio
import itertools
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from faults import load
from faults.fleet import TrunkReplica, client_service, fleet
from faults.schedule import Fault, Kind, schedule
from faults.worker import DECODE, PREFILL
from support.running_split import until

ONE_TRUNK = ("1-4",), 4
"""The layers of each stage, and the replicas of each stage."""
CHAIN = ("1-2", "2-4"), 3
ROUND_FAULTS = 50
N_STREAMS = 6
N_REQUESTS = 24
TRUNK_TIMEOUT = 1.0
MOMENT_SECONDS = 30.0
"""How long a fault waits for its moment."""
MOVE_SECONDS = 3.0
"""After how long without a replay others are moved: the sessions that were may have been at their end."""
SECOND_STAGE = "second stage"


@dataclass
class Round:
    """What one round did and found; as JSON in the results."""

    seed: int
    faults: dict[str, int] = field(default_factory=dict)
    requests: int = 0
    tokens: int = 0
    failed: list[tuple[int, str]] = field(default_factory=list)
    wrong: list[tuple[int, str]] = field(default_factory=list)
    failovers: list[dict[str, Any]] = field(default_factory=list)
    back_seconds: list[float] = field(default_factory=list)
    """From a worker's listening to the client's first session on it, after kills and restarts."""
    missed: int = 0
    """Faults whose moment did not come in time."""
    seconds: float = 0.0


@dataclass(frozen=True)
class Scene:
    """A fleet with a client service in front of it, both ready, and the load that may run against it."""

    replicas: list[TrunkReplica]
    http: httpx.AsyncClient
    load: load.Load


@asynccontextmanager
async def scene(weights: Path, found: Round, stages: Sequence[str], n_replicas: int) -> AsyncIterator[Scene]:
    """Starts everything, asks the oracle, and at the end stops everything and fills in what the load found."""
    began = time.monotonic()
    async with AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        stack.callback(_keep_logs, folder, found)
        replicas = await stack.enter_async_context(
            fleet(weights, folder, stages, n_replicas, next_timeout=TRUNK_TIMEOUT)
        )
        trunk = ",".join(replica.link.address for replica in replicas if replica.stage == 0)
        url = await stack.enter_async_context(client_service(weights, folder, trunk, trunk_timeout=TRUNK_TIMEOUT))
        limits = httpx.Limits(max_connections=None)
        http = await stack.enter_async_context(
            httpx.AsyncClient(base_url=url, timeout=load.TIMEOUT, limits=limits, trust_env=False)
        )
        await _ready(http)
        running = load.Load(url, await load.oracle(http, N_REQUESTS))
        yield Scene(replicas, http, running)
        found.requests = running.n_answered + len(running.failed) + len(running.wrong)
        found.tokens, found.failed, found.wrong = running.n_tokens, running.failed, running.wrong
        found.failovers = running.failovers
    found.seconds = round(time.monotonic() - began, 1)


def fleet_of(seed: int) -> tuple[tuple[str, ...], int]:
    """The layers of each stage, and the replicas of each: odd seeds have a chain of two."""
    return CHAIN if seed % 2 else ONE_TRUNK


async def run_round(weights: Path, seed: int, n_faults: int) -> Round:
    """Injects the faults of this seed into a steady load."""
    found = Round(seed)
    stages, n_replicas = fleet_of(seed)
    async with scene(weights, found, stages, n_replicas) as at:
        machine = _Machine(at.replicas, found)
        async with at.load.running(at.http, N_STREAMS, seed):
            for fault in schedule(seed, n_faults, len(stages)):
                await at.load.every_stream_has_a_token()
                await machine.inject(fault)
            await machine.mended()
    return found


async def run_rolling_restart(weights: Path, seed: int, n_replicas: int, n_streams: int, seconds: float) -> Round:
    """Replicas of one trunk are told to end and started again, one after the other, again and again, under load.

    It goes on for so many seconds, and until each was restarted once.
    """
    found = Round(seed, faults={str(Kind.RESTART): 0})
    async with scene(weights, found, ONE_TRUNK[0], n_replicas) as at:
        machine = _Machine(at.replicas, found)
        async with at.load.running(at.http, n_streams, seed):
            deadline = time.monotonic() + seconds
            for replica in itertools.cycle(at.replicas):
                await at.load.every_stream_has_a_token()
                await machine.restart(replica)
                found.faults[str(Kind.RESTART)] += 1
                if time.monotonic() > deadline and found.faults[str(Kind.RESTART)] >= n_replicas:
                    break
    return found


class _Machine:
    """Injects faults one after the other. Each is made good in the background; one replica per stage stays whole."""

    def __init__(self, replicas: list[TrunkReplica], found: Round) -> None:
        self._replicas = replicas
        self._found = found
        self._mending: set[asyncio.Task[None]] = set()

    async def inject(self, fault: Fault) -> None:
        """Waits for the fault's moment, and lets it happen."""
        await until(lambda: bool(self._spare(fault.stage)), within=2 * MOMENT_SECONDS)
        replica = await self._moment(fault)
        if replica is None:
            self._found.missed += 1
            print(f"{fault}: its moment did not come", file=sys.stderr)
            return
        name = f"{fault.kind}, {SECOND_STAGE}" if replica.stage else str(fault.kind)
        self._found.faults[name] = self._found.faults.get(name, 0) + 1
        replica.is_whole = False
        mending = asyncio.create_task(self._happen(fault, replica))
        self._mending.add(mending)
        mending.add_done_callback(self._mending.discard)

    async def mended(self) -> None:
        """Waits until all replicas are whole. Raises what went wrong."""
        while self._mending:
            await asyncio.gather(*self._mending)

    def _spare(self, stage: int) -> list[TrunkReplica]:
        """Whole replicas of a stage, all of which it can do without one at a time."""
        whole = [replica for replica in self._replicas if replica.is_whole and replica.stage == stage]
        return whole if len(whole) > 1 else []

    async def _moment(self, fault: Fault) -> TrunkReplica | None:
        """A replica that is in the state that the fault asks for; None if none got there in time."""
        wanted: Callable[[TrunkReplica], bool] = {
            Kind.KILL_IN_PREFILL: lambda replica: PREFILL in replica.sessions.values(),
            Kind.KILL_IN_REPLAY: self._replays,
        }.get(fault.kind, lambda replica: DECODE in replica.sessions.values())
        for replica in self._replicas:
            # what they did long ago is no moment
            replica.forget()
        deadline = time.monotonic() + MOMENT_SECONDS
        moves_at = time.monotonic() if fault.kind is Kind.KILL_IN_REPLAY else deadline
        while time.monotonic() < deadline:
            if time.monotonic() >= moves_at:
                await self._move_somebody(fault)
                moves_at = time.monotonic() + MOVE_SECONDS
            fitting = [replica for replica in self._spare(fault.stage) if wanted(replica)]
            if fitting:
                return fitting[int(fault.dice * len(fitting))]
            await asyncio.sleep(0.001)
        return None

    def _replays(self, replica: TrunkReplica) -> bool:
        """Whether a session that another replica has had is being sent again here."""
        return bool(replica.opened & self._moved)

    async def _move_somebody(self, fault: Fault) -> None:
        """Cuts the links of a replica with sessions, so that they are replayed elsewhere."""
        self._moved: set[str] = set()
        deadline = time.monotonic() + MOMENT_SECONDS
        while time.monotonic() < deadline:
            fitting = [replica for replica in self._spare(fault.stage) if DECODE in replica.sessions.values()]
            if fitting:
                chosen = fitting[int(fault.dice * len(fitting))]
                self._moved = {session for session, event in chosen.sessions.items() if event == DECODE}
                for replica in self._replicas:
                    replica.forget()
                chosen.link.cut()
                return
            await asyncio.sleep(0.001)

    async def _happen(self, fault: Fault, replica: TrunkReplica) -> None:
        match fault.kind:
            case Kind.KILL_IN_DECODE | Kind.KILL_IN_PREFILL | Kind.KILL_IN_REPLAY:
                replica.signal(signal.SIGKILL)
                await self._start_again(replica)
            case Kind.RESTART:
                await self.restart(replica)
            case Kind.FREEZE:
                replica.signal(signal.SIGSTOP)
                await asyncio.sleep(TRUNK_TIMEOUT + fault.seconds)
                replica.signal(signal.SIGCONT)
            case Kind.CUT:
                replica.link.cut()
            case Kind.DROP:
                replica.link.freeze()
                await asyncio.sleep(TRUNK_TIMEOUT + fault.seconds)
                replica.link.thaw()
            case Kind.DELAY:
                replica.link.delay = fault.seconds / 2
                await asyncio.sleep(fault.seconds)
                replica.link.delay = 0.0
            case _:
                replica.lie(str(fault.kind))
        replica.is_whole = True

    async def restart(self, replica: TrunkReplica) -> None:
        """As an upgrade does it: SIGTERM, and a new worker once the old one has ended. Returns when it has sessions."""
        replica.signal(signal.SIGTERM)
        code = await self._start_again(replica)
        if code != 0:
            raise RuntimeError(f"a worker that was told to end exited with {code}")

    async def _start_again(self, replica: TrunkReplica) -> int | None:
        code = await replica.ended()
        replica.start()
        await replica.serves()
        began = time.monotonic()
        await until(lambda: bool(replica.sessions), within=MOMENT_SECONDS)
        self._found.back_seconds.append(round(time.monotonic() - began, 3))
        return code


def _keep_logs(folder: Path, found: Round) -> None:
    """Of rounds that did not end, or not well."""
    if not found.requests or found.failed or found.wrong:
        shutil.copytree(folder, f"build/faults/logs-{found.seed}", dirs_exist_ok=True)


async def _ready(http: httpx.AsyncClient) -> None:
    deadline = time.monotonic() + 60.0
    while time.monotonic() < deadline:
        try:
            if (await http.get("/ready")).status_code == 200:
                return
        except httpx.TransportError:
            pass
        await asyncio.sleep(0.05)
    raise TimeoutError("the client service did not become ready; see its log")
