"""Sessions in bottom, trunk and top, with a trunk that answers rows with themselves."""

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from splitlearn.build import build_engine
from splitlearn.checkpoints.load import load_parts
from splitlearn.engine import DeviceThread, batching_policy
from splitlearn.model.plan import SplitPlan
from splitlearn_client import link_speed, split_session
from splitlearn_client.link_speed import FrameTrip, LinkSpeed
from splitlearn_client.local_parts import LocalParts
from splitlearn_client.report import Report
from splitlearn_client.sampling import Sampler, SamplingSettings
from splitlearn_client.session_stream import SessionStream
from splitlearn_client.split_session import SplitSession
from splitlearn_comm import AsyncGRPCComputeServer, Frame, Reply, ServiceInfo, SessionOpening
from splitlearn_comm.replicas.connecting import connector
from splitlearn_comm.replicas.replica import Replica
from splitlearn_comm.replicas.replica_set import ReplicaSet
from splitlearn_comm.testing import EchoSessionHost
from support.far_link import Network, far_link
from support.running_split import until
from support.tiny_models import N_LAYERS

PLAN = SplitPlan(1, 4, N_LAYERS)
PROMPT = list(range(3, 33))


@dataclass
class Clock:
    """Stands still unless it is told to go on."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def parts(tiny_weights: Path, clock: Clock) -> Iterator[LocalParts]:
    with DeviceThread(1) as thread:
        thread.shares_cores = True
        bottom, top = (
            build_engine(part, thread, clock=clock) for part in load_parts(tiny_weights, [PLAN.bottom, PLAN.top])
        )
        yield LocalParts(bottom, top, PLAN, "echo", thread, 4)


async def accept(_info: ServiceInfo) -> str | None:
    return None


@asynccontextmanager
async def session_on(
    trunk: int | str,
    parts: LocalParts,
    prompt: list[int] = PROMPT,
    link: LinkSpeed | None = None,
    links: Mapping[str, LinkSpeed] = MappingProxyType({}),
) -> AsyncIterator[SplitSession]:
    """A session that has begun with the prompt. The trunk is a port, or the addresses of several workers."""
    addresses, link = trunk if isinstance(trunk, str) else f"127.0.0.1:{trunk}", link or LinkSpeed()
    replicas = ReplicaSet(addresses, connector(5.0, None), accept, lambda: None, lambda: None)
    running = asyncio.create_task(replicas.run())
    await until(lambda: replicas.reason is None)
    replica, report = replicas.pick(), Report()
    assert replica is not None
    opening = SessionOpening("test", "echo", 100)
    try:
        async with SessionStream(replicas, replica, opening, failover_timeout=60.0, report=report) as stream:
            bottom, top = parts.bottom.open(), parts.top.open()

            def link_to(replica: Replica) -> LinkSpeed:
                return links.get(replica.address, link)

            session = SplitSession(parts, bottom, top, stream, lambda _ids: (), report, link_to)
            await session.begin(prompt)
            yield session
    finally:
        running.cancel()
        await asyncio.wait({running})


async def some_tokens(session: SplitSession, parts: LocalParts, clock: Clock) -> list[int]:
    """The ids after some tokens, while another session waits for its second token, of which nobody knows when it comes:
    prompts are not to delay that one either."""
    ids = list(PROMPT)
    for _ in range(4):
        clock.now += 1_000.0
        ids += [choice.token for choice in (await session.choose(ids, greedy())).choices]
    another = parts.bottom.open()
    await parts.bottom.step(another, 0, torch.tensor(PROMPT[:1]))
    return ids


def greedy() -> Sampler:
    return Sampler(SamplingSettings(temperature=0))


@pytest.fixture(autouse=True)
def tokens_are_expected_for_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """For so long that a prompt which waits for one does not run within the test."""
    monkeypatch.setattr(batching_policy, "_EXPECTED_WITHIN", 10_000.0)


async def test_while_a_session_waits_for_a_replica_the_prompts_of_others_do_not_wait_for_its_token(
    parts: LocalParts, clock: Clock
) -> None:
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(factor=1.0))
    async with server, session_on(server.port, parts) as session:
        ids = await some_tokens(session, parts, clock)
        await server.stop()
        choosing = asyncio.create_task(session.choose(ids, greedy()))
        async with asyncio.timeout(30):
            await parts.bottom.step(parts.bottom.open(), 0, torch.tensor(PROMPT))
        assert not choosing.done()
        choosing.cancel()
        await asyncio.wait({choosing})


async def test_a_session_whose_rows_the_trunk_has_lost_does_not_wait_for_its_own_next_token(
    parts: LocalParts, clock: Clock
) -> None:
    host = EchoSessionHost(factor=1.0)
    server = AsyncGRPCComputeServer(session_host=host)
    async with server, session_on(server.port, parts) as session:
        ids = await some_tokens(session, parts, clock)
        host.sessions[0].rows_TD = None
        async with asyncio.timeout(30):
            await session.choose(ids, greedy())
        assert host.sessions[0].reached == len(ids)


class Seen(LinkSpeed):
    """Keeps what it learns."""

    def __init__(self) -> None:
        super().__init__()
        self.trips: list[FrameTrip] = []

    def learn(self, trip: FrameTrip) -> None:
        self.trips.append(trip)


async def test_frames_behind_it_hide_nothing_of_the_first_one_s_trip(
    parts: LocalParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = parts.bottom.part
    monkeypatch.setattr(split_session, "CHUNK_BYTES", 16 * part.hidden_size * part.dtype.itemsize)
    prompt, link, bandwidth = list(range(3, 67)), Seen(), 2e4
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(factor=1.0))
    async with (
        server,
        far_link(server.port, Network(0.0, up=bandwidth, down=bandwidth)) as far,
        session_on(far.port, parts, prompt, link) as session,
    ):
        await session.choose(prompt, greedy())
    [trip] = link.trips
    rows_bytes = 2 * 16 * part.hidden_size * part.dtype.itemsize
    assert trip.n_rows == 16
    assert rows_bytes < trip.n_bytes < 1.1 * rows_bytes
    # of all that is on the wire, only the rows are counted here
    assert trip.wire_seconds > rows_bytes / bandwidth


class Quick(LinkSpeed):
    """Rows take no time on their way, whatever the machine does meanwhile."""

    def learn(self, trip: FrameTrip) -> None:
        super().learn(trip._replace(wire_seconds=0.0))


class Slow(LinkSpeed):
    """Slower than the trunk, whatever it learns."""

    is_known = True

    def rows_at_once(self, most: int, row_bytes: int) -> int:
        return min(3, most)


async def test_over_a_slow_link_a_prompt_goes_in_short_frames_of_which_more_are_on_their_way(
    parts: LocalParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    # a step of the trunk takes four short frames, and three steps' rows may be under way
    part = parts.bottom.part
    monkeypatch.setattr(split_session, "CHUNK_BYTES", 12 * part.hidden_size * part.dtype.itemsize)
    prompt, n_rows, owed = list(range(3, 49)), list[int](), [0]
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(factor=1.0))
    async with server, session_on(server.port, parts, prompt, Slow()) as session:
        send, receive = session.stream.send, session.stream.receive

        async def sent(frame: Frame) -> None:
            assert frame.rows is not None
            n_rows.append(frame.rows.shape[0])
            owed.append(owed[-1] + 1)
            await send(frame)

        async def received() -> Reply:
            owed.append(owed[-1] - 1)
            return await receive()

        monkeypatch.setattr(session.stream, "send", sent)
        monkeypatch.setattr(session.stream, "receive", received)
        await session.choose(prompt, greedy())
    assert n_rows == [3] * 15 + [1]
    # the last row, which is short of nothing, waits for no reply
    assert max(owed) == 13


async def test_over_an_unknown_link_a_prompt_begins_with_a_short_piece_that_is_alone(
    parts: LocalParts, monkeypatch: pytest.MonkeyPatch
) -> None:
    part = parts.bottom.part
    row_bytes = part.hidden_size * part.dtype.itemsize
    monkeypatch.setattr(split_session, "CHUNK_BYTES", 20 * row_bytes)
    monkeypatch.setattr(link_speed, "_FIRST_BYTES", 16 * row_bytes)
    prompt, link, done = list(range(3, 73)), Quick(), list[str]()
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(factor=1.0))
    async with server, session_on(server.port, parts, prompt, link) as session:
        send, receive = session.stream.send, session.stream.receive

        async def sent(frame: Frame) -> None:
            assert frame.rows is not None
            done.append(f"{frame.rows.shape[0]} sent")
            await send(frame)

        async def received() -> Reply:
            reply = await receive()
            assert reply.frame.rows is not None
            done.append(f"{reply.frame.rows.shape[0]} received")
            return reply

        monkeypatch.setattr(session.stream, "send", sent)
        monkeypatch.setattr(session.stream, "receive", received)
        await session.choose(prompt, greedy())
    assert link.is_known
    # on loopback nothing else is short
    assert done[:5] == ["16 sent", "16 received", "20 sent", "20 sent", "14 sent"]


async def test_what_frames_take_to_another_replica_is_learned_apart(parts: LocalParts) -> None:
    first, second = Seen(), Seen()
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(factor=1.0))
    other = AsyncGRPCComputeServer(session_host=EchoSessionHost(factor=1.0))
    async with server, other:
        links = {f"127.0.0.1:{server.port}": first, f"127.0.0.1:{other.port}": second}
        async with session_on(",".join(links), parts, links=links) as session:
            before = session.stream.replica.address
            [choice] = (await session.choose(ids := list(PROMPT), greedy())).choices
            await (server if before.endswith(str(server.port)) else other).stop()
            await session.choose([*ids, choice.token], greedy())
            after = session.stream.replica.address
    assert after != before
    assert [trip.n_rows for trip in links[before].trips] == [len(PROMPT)]
    assert [trip.n_rows for trip in links[after].trips] == [len(PROMPT) + 1]
