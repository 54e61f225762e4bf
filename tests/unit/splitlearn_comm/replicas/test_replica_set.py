"""The set against real servers on loopback."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest
import structlog

from splitlearn_comm import (
    AsyncGRPCComputeServer,
    Draining,
    InvalidAddress,
    NextStageFailed,
    RemoteFailure,
    ServiceInfo,
    Unreachable,
)
from splitlearn_comm.replicas import replica_set
from splitlearn_comm.replicas.connecting import connector
from splitlearn_comm.replicas.health import FAULTS_TO_EJECT, ReplicaState
from splitlearn_comm.replicas.replica import Replica
from splitlearn_comm.replicas.replica_set import ReplicaSet
from splitlearn_comm.testing import EchoSessionHost
from support.addresses import ipv6_works
from support.faulty_link import faulty_link
from support.running_split import free_port, until
from support.watched_replicas import accept, state_of, watched


@asynccontextmanager
async def servers(count: int) -> AsyncIterator[list[AsyncGRPCComputeServer]]:
    async with AsyncExitStack() as stack:
        hosts = [AsyncGRPCComputeServer(session_host=EchoSessionHost()) for _ in range(count)]
        yield [await stack.enter_async_context(host) for host in hosts]


@asynccontextmanager
async def dual_stack(
    monkeypatch: pytest.MonkeyPatch, host: str, port: int = 0
) -> AsyncIterator[tuple[AsyncGRPCComputeServer, ReplicaSet, str, str]]:
    """A server, and a set of the replicas of a name with both addresses of this machine."""

    async def getaddrinfo(_host: str, port: int, **_: object) -> list[object]:
        families = ((socket.AF_INET6, ("::1", port, 0, 0)), (socket.AF_INET, ("127.0.0.1", port)))
        return [(family, socket.SOCK_STREAM, 6, "", address) for family, address in families]

    if not ipv6_works():
        pytest.skip("this machine has no IPv6")
    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), host=host, port=port) as server:
        replicas = ReplicaSet(f"worker.example:{server.port}", connector(5.0, None), accept, lambda: None, lambda: None)
        running = asyncio.create_task(replicas.run())
        try:
            yield server, replicas, f"[::1]:{server.port}", f"127.0.0.1:{server.port}"
        finally:
            running.cancel()
            await asyncio.wait({running})


def answered(replicas: ReplicaSet) -> dict[str, bool]:
    return {address: replica.identity.instance is not None for address, replica in replicas._replicas.items()}


def states_by_address(replicas: ReplicaSet) -> dict[str, ReplicaState]:
    return {address: replica.state for address, replica in replicas._replicas.items()}


async def test_a_worker_with_an_address_of_each_family_is_one_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async with dual_stack(monkeypatch, "::") as (_, replicas, six, four):
        await until(lambda: answered(replicas) == {six: True, four: True})
        await until(lambda: replicas.states() == {ReplicaState.READY: 1})
        assert replicas.usable_addresses() == {six}
        # the way there fails: the other address is taken at once
        picked = replicas.pick()
        assert picked is not None
        picked.faulted(Unreachable("no route"))
        assert replicas.states() == {ReplicaState.READY: 1}
        assert replicas.usable_addresses() == {four}
        await until(lambda: replicas.usable_addresses() == {six})
        other = replicas.pick({six})
        assert other is not None
        assert other.address == four


async def test_a_worker_with_two_addresses_that_ends_is_one_lost_replica(monkeypatch: pytest.MonkeyPatch) -> None:
    async with dual_stack(monkeypatch, "::") as (server, replicas, six, four):
        await until(lambda: answered(replicas) == {six: True, four: True})
        await server.stop()
        await until(lambda: replicas.states() == {ReplicaState.UNREACHABLE: 1})
        async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), host="::", port=server.port):
            await until(lambda: replicas.states() == {ReplicaState.READY: 1})


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
async def test_an_address_where_nobody_listens_is_no_replica_if_the_name_has_another(
    monkeypatch: pytest.MonkeyPatch, host: str
) -> None:
    async with dual_stack(monkeypatch, host) as (_, replicas, six, four):
        used, silent = (six, four) if ":" in host else (four, six)
        await until(lambda: states_by_address(replicas).get(silent) is ReplicaState.UNREACHABLE)
        await until(lambda: replicas.states() == {ReplicaState.READY: 1})
        assert replicas.usable_addresses() == {used}
        assert answered(replicas) == {used: True, silent: False}


async def test_a_worker_that_is_given_by_two_addresses_is_one_replica() -> None:
    async with (
        servers(2) as (one, other),
        faulty_link(one.port) as link,
        watched(link.port, one.port, other.port) as replicas,
    ):
        await until(lambda: len(answered(replicas)) == 3 and all(answered(replicas).values()))
        await until(lambda: replicas.states() == {ReplicaState.READY: 2})
        assert replicas.usable_addresses() == {link.address, f"127.0.0.1:{other.port}"}
        # a frozen way is not waited for while there is another
        link.freeze()
        await until(lambda: replicas.usable_addresses() == {f"127.0.0.1:{each.port}" for each in (one, other)})


async def test_replicas_come_drain_die_and_come_back() -> None:
    port = free_port()
    async with servers(1) as (steady,), watched(steady.port, port) as replicas:
        await until(lambda: state_of(replicas, steady.port) is ReplicaState.READY)
        await until(lambda: state_of(replicas, port) is ReplicaState.UNREACHABLE)
        for _ in range(2):
            async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), port=port) as server:
                await until(lambda: state_of(replicas, port) is ReplicaState.READY)
                await server.set_serving(False)
                await until(lambda: state_of(replicas, port) is ReplicaState.NOT_SERVING)
                await server.set_serving(True)
                await until(lambda: state_of(replicas, port) is ReplicaState.READY)
            await until(lambda: state_of(replicas, port) is ReplicaState.UNREACHABLE)
        assert state_of(replicas, steady.port) is ReplicaState.READY
        assert replicas.reason is None
        assert replicas.usable_addresses() == {f"127.0.0.1:{steady.port}"}


async def test_without_any_replica_the_reasons_of_all_are_given_and_whether_they_may_recover() -> None:
    async def refuse(info: ServiceInfo) -> str | None:
        return f"{info.service_name} has other weights"

    port = free_port()
    async with servers(1) as (server,), watched(server.port, port, judge=refuse) as replicas:
        await until(lambda: state_of(replicas, server.port) is ReplicaState.INCOMPATIBLE)
        await until(lambda: state_of(replicas, port) is ReplicaState.UNREACHABLE)
        assert replicas.reason is not None
        assert "echo has other weights" in replicas.reason
        assert f"127.0.0.1:{port}" in replicas.reason
        # the other one may come
        assert replicas.may_recover
        assert replicas.pick() is None


async def test_who_waits_for_a_replica_gets_the_first_that_comes() -> None:
    port = free_port()
    async with watched(port) as replicas:
        await until(lambda: state_of(replicas, port) is ReplicaState.UNREACHABLE)
        assert await replicas.picked((), 0.01) is None
        waiting = asyncio.create_task(replicas.picked((), 60.0))
        async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), port=port):
            replica = await waiting
            assert replica is not None
            assert replica.address == f"127.0.0.1:{port}"


async def test_nobody_waits_for_replicas_of_which_none_becomes_compatible_by_itself() -> None:
    verdicts: list[str | None] = [None]

    async def judge(_info: ServiceInfo) -> str | None:
        return verdicts[0]

    async with servers(1) as (server,), watched(server.port, judge=judge) as replicas:
        await until(lambda: replicas.reason is None)
        await server.set_serving(False)
        await until(lambda: state_of(replicas, server.port) is ReplicaState.NOT_SERVING)
        # who waits already is told when it turns out
        waiting = asyncio.create_task(replicas.picked((), 3600.0))
        await asyncio.sleep(0)
        verdicts[0] = "other weights"
        assert await waiting is None
        assert (replicas.may_recover, replicas.reason) == (False, "other weights")
        assert await replicas.picked((), 3600.0) is None
        # it is asked again all the same
        verdicts[0] = None
        await server.set_serving(True)
        await until(lambda: replicas.reason is None)


async def test_an_avoided_replica_is_taken_only_if_there_is_no_other() -> None:
    async with servers(2) as (one, other), watched(one.port, other.port) as replicas:
        await until(lambda: len(replicas.usable_addresses()) == 2)
        avoided = f"127.0.0.1:{one.port}"
        for _ in range(20):
            picked = replicas.pick({avoided})
            assert picked is not None
            assert picked.address != avoided
        await other.stop()
        await until(lambda: replicas.usable_addresses() == {avoided})
        picked = replicas.pick({avoided})
        assert picked is not None
        assert picked.address == avoided


async def test_a_replica_whose_next_stage_failed_is_well() -> None:
    async with servers(1) as (server,), watched(server.port) as replicas:
        await until(lambda: replicas.reason is None)
        replica = replicas.pick()
        assert replica is not None
        for _ in range(2 * FAULTS_TO_EJECT):
            replica.faulted(NextStageFailed("the stage behind it is gone"))
            assert replica.state is ReplicaState.READY


async def test_a_broken_connection_in_a_session_is_believed_at_once() -> None:
    async with servers(1) as (server,), watched(server.port) as replicas:
        await until(lambda: replicas.reason is None)
        replica = replicas.pick()
        assert replica is not None
        replica.faulted(Unreachable("gone"))
        assert replica.state is ReplicaState.UNREACHABLE
        # the next poll knows better
        await until(lambda: replica.state is ReplicaState.READY)


def eject(replica: Replica) -> None:
    for _ in range(FAULTS_TO_EJECT):
        replica.faulted(RemoteFailure("broken"))


async def test_one_that_breaks_several_sessions_is_not_used_while_there_is_another() -> None:
    async with servers(2) as (one, other), watched(one.port, other.port) as replicas:
        await until(lambda: len(replicas.usable_addresses()) == 2)
        first, second = (replicas._replicas[f"127.0.0.1:{server.port}"] for server in (one, other))
        eject(first)
        assert replicas.usable_addresses() == {second.address}
        eject(second)
        assert replicas.usable_addresses() == {first.address, second.address}
        assert replicas.reason is None


async def test_a_session_keeps_the_connection_to_a_replica_that_is_gone_from_the_name() -> None:
    async with servers(2) as (one, other), watched(one.port, other.port) as replicas:
        await until(lambda: len(replicas.usable_addresses()) == 2)
        leaving = replicas._replicas[f"127.0.0.1:{one.port}"]
        with replicas.placed(leaving, 10):
            replicas._retire(replicas._replicas.pop(leaving.address))
            assert replicas.usable_addresses() == {f"127.0.0.1:{other.port}"}
            assert await leaving.client.health()
        await until(lambda: leaving.client._closed)


async def test_a_session_may_outlive_the_set() -> None:
    async with servers(1) as (server,), watched(server.port) as replicas:
        await until(lambda: replicas.reason is None)
        leaving = replicas._replicas[f"127.0.0.1:{server.port}"]
        placement = replicas.placed(leaving, 10)
        placement.__enter__()
        replicas._retire(replicas._replicas.pop(leaving.address))
    assert leaving.client._closed
    placement.__exit__(None, None, None)
    assert leaving.n_sessions == 0


async def test_one_that_drains_is_not_asked_again_because_it_answers_polls() -> None:
    async with servers(1) as (server,), watched(server.port) as replicas:
        await until(lambda: replicas.reason is None)
        replica = replicas.pick()
        assert replica is not None
        # the watch runs: it has told of these changes
        await server.set_serving(False)
        await until(lambda: replica.state is ReplicaState.NOT_SERVING)
        await server.set_serving(True)
        await until(lambda: replica.state is ReplicaState.READY)
        polls = replica.client.service_info
        asked = 0

        async def counted(timeout: float | None = None) -> ServiceInfo:
            nonlocal asked
            asked += 1
            return await polls(timeout)

        replica.client.service_info = counted  # type: ignore[method-assign]
        # the session learns it before the health watch does
        replica.faulted(Draining("shutting down"))
        await until(lambda: asked >= 3)
        assert replica.state is ReplicaState.NOT_SERVING
        await server.stop()
        async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), port=server.port):
            await until(lambda: replica.state is ReplicaState.READY)


def test_an_address_that_is_none_is_refused_at_once() -> None:
    with pytest.raises(InvalidAddress):
        ReplicaSet("trunk", connector(5.0, None), accept, lambda: None, lambda: None)


async def test_one_that_stopped_answering_polls_gets_no_session_while_there_is_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("splitlearn_comm.replicas.replica.ANSWER_SECONDS", 0.7)
    async with (
        servers(2) as (one, other),
        faulty_link(one.port) as link,
        watched(link.port, other.port) as replicas,
    ):
        await until(lambda: len(replicas.usable_addresses()) == 2)
        link.freeze()
        await until(lambda: replicas._replicas[link.address].is_slow)
        # the poll that follows one without an answer is no answer
        frozen = replicas._replicas[link.address]
        await until(lambda: not frozen.is_slow or frozen.state is ReplicaState.UNREACHABLE)
        assert frozen.state is ReplicaState.UNREACHABLE
        picked = {replica.address for _ in range(20) if (replica := replicas.pick()) is not None}
        assert picked == {f"127.0.0.1:{other.port}"}
        link.thaw()
        await until(lambda: not replicas._replicas[link.address].is_slow)


async def test_a_name_that_does_not_resolve_is_logged_once_though_others_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(replica_set, "RESOLVE_SECONDS", 0.01)
    resolved = 0

    async def getaddrinfo(*_: object, **__: object) -> list[object]:
        nonlocal resolved
        resolved += 1
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)
    async with servers(1) as (server,):
        replicas = ReplicaSet(
            f"127.0.0.1:{server.port},nowhere:1", connector(5.0, None), accept, lambda: None, lambda: None
        )
        with structlog.testing.capture_logs() as logs:
            running = asyncio.create_task(replicas.run())
            await until(lambda: resolved > 3 and replicas.reason is None)
            running.cancel()
            await asyncio.wait({running})
    (line,) = [each for each in logs if each["event"] == "trunk addresses"]
    assert line["reason"].startswith("nowhere:1 does not resolve")
