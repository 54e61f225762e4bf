"""The plain health port: what it reports, and that it serves nothing else."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc.aio
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.reflection_pb2 import ServerReflectionRequest
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from splitlearn_comm.call_limit import MOST_CALLS
from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.errors import NotServed, PortUnavailable, Unreachable
from splitlearn_comm.health_server import LIVENESS, HealthServer, HealthState
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost
from splitlearn_comm.token_files import Tokens

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING
SERVICE = "splitlearn.comm.v1.ComputeService"


@asynccontextmanager
async def stub_at(port: int) -> AsyncIterator[health_pb2_grpc.HealthStub]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        yield health_pb2_grpc.HealthStub(channel)


async def status(stub: health_pb2_grpc.HealthStub, service: str = "") -> int:
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def test_both_ports_report_one_state_from_before_the_main_one_exists_until_after_its_end() -> None:
    state = HealthState()
    async with HealthServer(state) as plain, stub_at(plain.port) as probe:
        assert await status(probe) == NOT_SERVING
        server = AsyncGRPCComputeServer(session_host=EchoSessionHost(), health=state)
        assert await status(probe) == NOT_SERVING
        await server.start()
        async with stub_at(server.port) as main:
            for serving in (True, False, True):
                await server.set_serving(serving)
                for stub in (probe, main):
                    for name in ("", SERVICE):
                        assert await status(stub, name) == (SERVING if serving else NOT_SERVING)
        await server.stop()
        await server.set_serving(True)
        assert await status(probe) == NOT_SERVING


async def test_a_watch_sees_every_change() -> None:
    state = HealthState()
    async with HealthServer(state) as plain, stub_at(plain.port) as probe:
        watching = probe.Watch(health_pb2.HealthCheckRequest())
        seen = [(await watching.read()).status]
        for change in (lambda: state.set_serving(True), state.end):
            change()
            seen.append((await watching.read()).status)
        watching.cancel()
    assert seen == [NOT_SERVING, SERVING, NOT_SERVING]


async def test_the_name_of_liveness_is_serving_whatever_the_state_is() -> None:
    state = HealthState()
    async with HealthServer(state) as plain, stub_at(plain.port) as probe:
        assert await status(probe, LIVENESS) == SERVING
        state.set_serving(False)
        assert await status(probe, LIVENESS) == SERVING
        state.end()
        assert await status(probe, LIVENESS) == SERVING


async def test_a_name_that_nobody_serves_is_not_found() -> None:
    async with HealthServer(HealthState()) as plain, stub_at(plain.port) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status(probe, "another.Service")
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND


async def test_it_serves_neither_sessions_nor_info_nor_reflection() -> None:
    async with HealthServer(HealthState()) as plain, AsyncGRPCComputeClient(f"127.0.0.1:{plain.port}") as client:
        with pytest.raises(NotServed):
            await client.service_info()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{plain.port}") as channel:
            listing = channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await listing(iter([b""])).read()
    assert caught.value.code() == grpc.StatusCode.UNIMPLEMENTED


async def test_a_request_longer_than_any_name_is_refused_unread() -> None:
    async with HealthServer(HealthState()) as plain, stub_at(plain.port) as probe:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await status(probe, "x" * 2048)
        assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert await status(probe) == NOT_SERVING


async def test_a_busy_port_is_refused_by_name_and_a_stopped_servers_port_is_free() -> None:
    async with HealthServer(HealthState()) as first:
        with pytest.raises(PortUnavailable, match=rf"127\.0\.0\.1:{first.port} is taken by another process"):
            await HealthServer(HealthState(), port=first.port).start()
        assert repr(first) == f"<HealthServer 127.0.0.1:{first.port} listening>"
    assert repr(first) == f"<HealthServer 127.0.0.1:{first.port} stopped>"
    async with HealthServer(HealthState(), port=first.port) as second:
        assert second.port == first.port


async def test_it_stops_while_a_watch_is_open() -> None:
    async with HealthServer(HealthState()) as plain, stub_at(plain.port) as probe:
        watching = probe.Watch(health_pb2.HealthCheckRequest())
        await watching.read()
        await plain.stop()
        with pytest.raises(grpc.aio.AioRpcError):
            await watching.read()
    async with AsyncGRPCComputeClient(f"127.0.0.1:{plain.port}") as client:
        with pytest.raises(Unreachable):
            await client.health()


UNREAD = (("grpc.http2.lookahead_bytes", 5), ("grpc.http2.bdp_probe", 0), ("grpc.use_local_subchannel_pool", 1))
"""Options of a caller whose window takes no reply until it reads one."""


@asynccontextmanager
async def unread_channel(port: int) -> AsyncIterator[grpc.aio.Channel]:
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", options=UNREAD) as channel:
        yield channel


@asynccontextmanager
async def unread_watch(port: int) -> AsyncIterator[None]:
    """A Watch whose first reply the server cannot write."""
    async with unread_channel(port) as channel:
        watching = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        await watching.initial_metadata()
        yield


async def test_a_watcher_that_does_not_read_keeps_nobody_from_seeing_changes_and_no_server_from_its_end() -> None:
    state = HealthState()
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost(), health=state)
    async with HealthServer(state) as plain, unread_watch(plain.port), asyncio.timeout(60):
        await server.start()
        async with unread_watch(server.port), stub_at(server.port) as main, stub_at(plain.port) as probe:
            watching = [stub.Watch(health_pb2.HealthCheckRequest()) for stub in (main, probe)]
            assert [(await each.read()).status for each in watching] == [SERVING, SERVING]
            await server.set_serving(False)
            assert [(await each.read()).status for each in watching] == [NOT_SERVING, NOT_SERVING]
            await server.stop()
            await plain.stop()


async def test_one_sender_has_no_more_than_sixteen_calls_open_beside_its_sessions(tmp_path: Path) -> None:
    (tmp_path / "tokens").write_text(f"mallory {'m' * 40}\nalice {'a' * 40}\n")
    tokens = Tokens(file=tmp_path / "tokens")
    host = EchoSessionHost()
    async with AsyncGRPCComputeServer(session_host=host, tokens=tokens) as server, stub_at(server.port) as main:
        mallory, alice = ((("authorization", f"Bearer {letter * 40}"),) for letter in "ma")
        watching = [main.Watch(health_pb2.HealthCheckRequest(), metadata=mallory) for _ in range(MOST_CALLS)]
        assert [(await each.read()).status for each in watching] == [SERVING] * MOST_CALLS
        for refused in (
            main.Watch(health_pb2.HealthCheckRequest(), metadata=mallory).read(),
            main.Check(health_pb2.HealthCheckRequest(), metadata=mallory),
        ):
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await refused
            assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED
        assert (await main.Check(health_pb2.HealthCheckRequest(), metadata=alice)).status == SERVING
        watching[0].cancel()
        async with asyncio.timeout(60):
            while not await admitted(main, mallory):
                pass


async def admitted(stub: health_pb2_grpc.HealthStub, metadata: tuple[tuple[str, str], ...]) -> bool:
    try:
        await stub.Check(health_pb2.HealthCheckRequest(), metadata=metadata)
    except grpc.aio.AioRpcError:
        return False
    return True


async def test_a_watch_of_a_name_that_no_service_has_is_refused_if_it_is_longer_than_any() -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server, stub_at(server.port) as main:
        unknown = main.Watch(health_pb2.HealthCheckRequest(service="x" * 256))
        assert (await unknown.read()).status == health_pb2.HealthCheckResponse.SERVICE_UNKNOWN
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await main.Watch(health_pb2.HealthCheckRequest(service="x" * 257)).read()
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_who_leaves_without_reading_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server, stub_at(server.port) as main:
        async with unread_watch(server.port), unread_channel(server.port) as rude:
            listing = ServerReflectionStub(rude).ServerReflectionInfo()
            await listing.write(ServerReflectionRequest(list_services=""))
            await listing.initial_metadata()
        assert await status(main) == SERVING
        await server.stop()
    assert not caplog.records
