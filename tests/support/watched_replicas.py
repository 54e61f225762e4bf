"""A set of replicas that watches real servers on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

from splitlearn_comm import ServiceInfo
from splitlearn_comm.replicas.connecting import connector
from splitlearn_comm.replicas.health import ReplicaState
from splitlearn_comm.replicas.replica_set import ReplicaSet


async def accept(_info: ServiceInfo) -> str | None:
    return None


def state_of(replicas: ReplicaSet, port: int) -> ReplicaState | None:
    found = replicas._replicas.get(f"127.0.0.1:{port}")
    return None if found is None else found.state


@asynccontextmanager
async def watched(
    *ports: int, judge: Callable[[ServiceInfo], Awaitable[str | None]] = accept
) -> AsyncIterator[ReplicaSet]:
    trunk = ",".join(f"127.0.0.1:{port}" for port in ports)
    connect = connector(5.0, None)
    replicas = ReplicaSet(trunk, connect, judge, changed=lambda: None, failed=lambda: None)
    running = asyncio.create_task(replicas.run())
    try:
        yield replicas
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.wait({running})
