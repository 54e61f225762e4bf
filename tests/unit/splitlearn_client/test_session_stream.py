import asyncio

import pytest

from splitlearn_client.report import Report
from splitlearn_client.session_stream import SessionStream
from splitlearn_comm import AsyncGRPCComputeServer, Cancelled, ServiceInfo, SessionOpening
from splitlearn_comm.replicas.connecting import connector
from splitlearn_comm.replicas.replica_set import ReplicaSet
from splitlearn_comm.testing import EchoSessionHost
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
