import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from splitlearn_client.report import Report
from splitlearn_client.session_stream import _ASK_AGAIN_SECONDS, SessionStream
from splitlearn_comm import (
    AsyncGRPCComputeServer,
    Cancelled,
    CommError,
    NextStageFailed,
    Overloaded,
    ServiceInfo,
    ServiceLoad,
    SessionOpening,
)
from splitlearn_comm.replicas.connecting import connector
from splitlearn_comm.replicas.replica_set import ReplicaSet
from splitlearn_comm.testing import EchoSession, EchoSessionHost
from support.running_split import until


async def accept(_info: ServiceInfo) -> str | None:
    return None


async def test_a_session_that_gets_no_stream_is_not_counted_on_its_replica() -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server:
        replicas = ReplicaSet(f"127.0.0.1:{server.port}", connector(5.0, None), accept, lambda: None, lambda: None)
        running = asyncio.create_task(replicas.run())
        await until(lambda: replicas.reason is None)
        replica = replicas.pick()
        assert replica is not None
        # the service ends, and its connections with it
        running.cancel()
        await asyncio.wait({running})
        with pytest.raises(Cancelled) as refused:
            SessionStream(replicas, replica, SessionOpening("test", "echo", 8), 1.0, Report())
        # as long as the error is kept, too
        assert (replica.n_sessions, refused.type) == (0, Cancelled)


class FullHost(EchoSessionHost):
    """Has no capacity, and tells clients to come again after so long."""

    def __init__(self, retry_after: float | None) -> None:
        super().__init__()
        self.retry_after = retry_after
        self.openings: list[SessionOpening] = []

    async def open(self, opening: SessionOpening) -> EchoSession:
        self.openings.append(opening)
        raise Overloaded("no memory is free", self.retry_after)


class LateHost(EchoSessionHost):
    """Never answers to its first opening."""

    def __init__(self) -> None:
        super().__init__()
        self.n_openings = 0

    async def open(self, opening: SessionOpening) -> EchoSession:
        self.n_openings += 1
        if self.n_openings == 1:
            await asyncio.get_running_loop().create_future()
        return await super().open(opening)


class BrokenChain(EchoSessionHost):
    """The first stage of a chain whose next one fails a number of times."""

    def __init__(self, n_failures: int) -> None:
        super().__init__()
        self.n_failures = n_failures
        self.openings: list[float] = []

    async def open(self, opening: SessionOpening) -> EchoSession:
        self.openings.append(asyncio.get_running_loop().time())
        if len(self.openings) <= self.n_failures:
            raise NextStageFailed("the stage behind it is gone")
        return await super().open(opening)


@asynccontextmanager
async def stream_to(*hosts: EchoSessionHost, report: Report, timeout: float = 5.0) -> AsyncIterator[SessionStream]:
    """A stream that is placed on one of the hosts, and may move to the others."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(AsyncGRPCComputeServer(session_host=host)) for host in hosts]
        addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        replicas = ReplicaSet(addresses, connector(timeout, None), accept, lambda: None, lambda: None)
        running = asyncio.create_task(replicas.run())
        try:
            await until(lambda: len(replicas.usable_addresses()) == len(hosts))
            opening = SessionOpening("test", "echo", 8, block_hashes=(b"block",))
            replica = replicas.pick()
            assert replica is not None
            yield SessionStream(replicas, replica, opening, 10.0, report)
        finally:
            running.cancel()
            await asyncio.wait({running})


async def opened(stream: SessionStream) -> None:
    """Opens it on the first replica that takes it."""
    while True:
        try:
            await stream.open()
            return
        except CommError as error:
            await stream.fail_over(error, lambda: (b"block",))


async def told_by(*hosts: FullHost) -> float | None:
    """When a session is told to come again that finds all of these full."""
    async with stream_to(*hosts, report=Report()) as stream:
        with pytest.raises(Overloaded) as refused:
            await opened(stream)
        return refused.value.retry_after


@pytest.mark.parametrize("seconds", [(30.0, 7.0), (7.0, 30.0), (None, 7.0), (7.0, None)])
async def test_a_session_that_no_replica_takes_is_told_the_shortest_time_that_any_of_them_named(
    seconds: tuple[float | None, float | None],
) -> None:
    hosts = [FullHost(each) for each in seconds]
    assert await told_by(*hosts) == 7.0
    assert [len(host.openings) for host in hosts] == [1, 1]


async def test_only_the_first_replica_that_refuses_a_session_expects_it_again() -> None:
    hosts = [FullHost(7.0), FullHost(7.0)]
    await told_by(*hosts)
    assert sorted(host.openings[0].refused_elsewhere for host in hosts) == [False, True]


async def test_where_no_replica_names_a_time_the_session_is_told_none() -> None:
    assert await told_by(FullHost(None)) is None


async def test_a_chain_whose_next_stage_failed_is_asked_again_at_once_and_then_with_pauses() -> None:
    host, report = BrokenChain(3), Report()
    async with stream_to(host, report=report) as stream:
        await opened(stream)
        stream.resumed()
    _, second, third, fourth = host.openings
    assert third - second >= _ASK_AGAIN_SECONDS
    assert fourth - third >= _ASK_AGAIN_SECONDS
    assert [failover.reason for failover in report.failovers] == ["NextStageFailed"]


async def test_the_time_in_which_faults_are_detected_is_no_time_of_resumption() -> None:
    report, timeout, hosts = Report(), 0.5, (LateHost(), LateHost())
    began = asyncio.get_running_loop().time()
    async with stream_to(*hosts, report=report, timeout=timeout) as stream:
        await opened(stream)
        stream.resumed()
    passed = asyncio.get_running_loop().time() - began
    (failover,) = report.failovers
    assert [host.n_openings for host in hosts] in ([1, 2], [2, 1])
    # both; each a little less than the timeout, which begins before the frame is sent
    assert failover.detection_seconds > 1.5 * timeout
    assert failover.detection_seconds + failover.resumption_seconds <= passed


async def test_a_session_asks_first_where_those_that_are_open_may_take_all_rows() -> None:
    full = ServiceLoad(0, 0, total_rows=8, free_rows=8)
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server:
        replicas = ReplicaSet(f"127.0.0.1:{server.port}", connector(5.0, None), accept, lambda: None, lambda: None)
        running = asyncio.create_task(replicas.run())
        await until(lambda: replicas.reason is None)
        replica = replicas.pick()
        assert replica is not None
        # nothing is awaited from a report on: the next poll brings another one
        replica.load.report(full)
        streams = []
        for _ in range(2):
            streams.append(SessionStream(replicas, replica, SessionOpening("test", "echo", 8), 1.0, Report()))
            replica.load.report(full)
        assert [stream._stream.opening.asks_first for stream in streams] == [False, True]
        for stream in streams:
            await stream.__aexit__(None, None, None)
        replica.load.report(full)
        assert not replica.load.may_refuse
        running.cancel()
        await asyncio.wait({running})
