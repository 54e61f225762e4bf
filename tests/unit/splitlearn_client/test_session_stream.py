import asyncio
from contextlib import AsyncExitStack

import pytest

from splitlearn_client.report import Report
from splitlearn_client.session_stream import SessionStream
from splitlearn_comm import AsyncGRPCComputeServer, Cancelled, Overloaded, ServiceInfo, SessionOpening
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


async def opened(stream: SessionStream) -> None:
    """Opens it on the first replica that takes it."""
    while True:
        try:
            await stream.open()
            return
        except Overloaded as error:
            await stream.fail_over(error, lambda: (b"block",))


async def told_by(*hosts: FullHost) -> float | None:
    """When a session is told to come again that finds all of these full."""
    async with AsyncExitStack() as stack:
        servers = [await stack.enter_async_context(AsyncGRPCComputeServer(session_host=host)) for host in hosts]
        addresses = ",".join(f"127.0.0.1:{server.port}" for server in servers)
        replicas = ReplicaSet(addresses, connector(5.0, None), accept, lambda: None, lambda: None)
        running = asyncio.create_task(replicas.run())
        try:
            await until(lambda: len(replicas.usable_addresses()) == len(hosts))
            replica = replicas.pick()
            assert replica is not None
            opening = SessionOpening("test", "echo", 8, block_hashes=(b"block",))
            stream = SessionStream(replicas, replica, opening, 10.0, Report())
            with pytest.raises(Overloaded) as refused:
                await opened(stream)
            return refused.value.retry_after
        finally:
            running.cancel()
            await asyncio.wait({running})


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
