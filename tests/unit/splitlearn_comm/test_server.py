"""A server's life: ports, health, reflection, the compute function, stop."""

import asyncio
import socket
import threading
from collections.abc import AsyncIterator, Mapping

import grpc.aio
import pytest
import torch
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import (
    CompressedTensorCodec,
    ComputeFunction,
    ComputeOptions,
    Int8Codec,
    ModelComputeFunction,
    SessionOpening,
    TensorCodec,
)
from splitlearn_comm.errors import (
    InvalidTensor,
    NotServed,
    PortUnavailable,
    RemoteFailure,
    UnknownCodec,
    Unreachable,
)
from splitlearn_comm.frames import Frame
from splitlearn_comm.options import MAX_MESSAGE_BYTES
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost, loopback
from support.running_split import free_port

OPENING = SessionOpening("one", "echo", 64)


class Recorder(ComputeFunction):
    """Doubles, and notes what happened in which thread."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.threads: set[int] = set()

    def _note(self, event: str) -> None:
        self.events.append(event)
        self.threads.add(threading.get_ident())

    def setup(self) -> None:
        self._note("setup")

    def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
        self._note("compute")
        if input_tensor.numel() == 0:
            raise ZeroDivisionError("the secret of this machine")
        if input_tensor.dim() != 2:
            raise InvalidTensor(f"expected 2 dimensions, got {input_tensor.dim()}")
        return input_tensor * 2

    def teardown(self) -> None:
        self._note("teardown")

    def get_info(self) -> Mapping[str, object]:
        return {"service_name": "doubler", "version": 3, "device": "cpu", "layers": 4}


@pytest.fixture
async def channel() -> AsyncIterator[grpc.aio.Channel]:
    """A foreign client's channel to a server of sessions."""
    async with (
        AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server,
        grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel,
    ):
        yield channel


async def test_port_zero_picks_a_free_one_and_tells_it() -> None:
    server = AsyncGRPCComputeServer(session_host=EchoSessionHost())

    port = await server.start()

    assert port == server.port > 0
    assert repr(server) == f"<AsyncGRPCComputeServer 127.0.0.1:{port} listening>"
    await server.stop()


async def test_a_busy_port_is_refused_by_name() -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as first:
        second = AsyncGRPCComputeServer(session_host=EchoSessionHost(), port=first.port)
        with pytest.raises(PortUnavailable, match=rf"127\.0\.0\.1:{first.port} is taken by another process"):
            await second.start()


async def test_a_stopped_servers_port_is_free_again() -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as first:
        port = first.port
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost(), port=port) as second:
        assert second.port == port


async def test_a_setup_that_fails_leaves_no_server_behind() -> None:
    class Broken(Recorder):
        def setup(self) -> None:
            raise FileNotFoundError("weights")

    server = AsyncGRPCComputeServer(compute_fn=Broken())

    with pytest.raises(FileNotFoundError, match="weights"):
        await server.start()

    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", server.port)) != 0


def test_a_server_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="nothing to serve"):
        AsyncGRPCComputeServer()


async def test_health_follows_set_serving_under_both_names(channel: grpc.aio.Channel) -> None:
    stub = health_pb2_grpc.HealthStub(channel)
    for name in ("", "splitlearn.comm.v1.ComputeService"):
        answer = await stub.Check(health_pb2.HealthCheckRequest(service=name))
        assert answer.status == health_pb2.HealthCheckResponse.SERVING


async def test_the_client_sees_the_server_stop_and_resume_serving() -> None:
    async with loopback(session_host=EchoSessionHost()) as (server, client):
        assert await client.health()
        await server.set_serving(False)
        assert not await client.health()
        await server.set_serving(True)
        assert await client.health()


async def test_reflection_lists_the_service_and_gives_its_file(channel: grpc.aio.Channel) -> None:
    stub = reflection_pb2_grpc.ServerReflectionStub(channel)
    ask = reflection_pb2.ServerReflectionRequest
    call = stub.ServerReflectionInfo(
        iter([ask(list_services=""), ask(file_containing_symbol="splitlearn.comm.v1.ComputeService")])
    )

    listed, described = [answer async for answer in call]

    names = {service.name for service in listed.list_services_response.service}
    assert {"splitlearn.comm.v1.ComputeService", "grpc.health.v1.Health"} <= names
    assert b"GetServiceInfo" in described.file_descriptor_response.file_descriptor_proto[0]


async def test_compute_runs_on_one_thread_that_is_not_the_event_loops() -> None:
    recorder = Recorder()
    async with loopback(compute_fn=recorder) as (_, client):
        for _ in range(3):
            assert torch.equal(await client.compute(torch.ones(2, 2)), torch.full((2, 2), 2.0))

    assert recorder.events == ["setup", "compute", "compute", "compute", "teardown"]
    assert len(recorder.threads) == 1
    assert threading.get_ident() not in recorder.threads


async def test_several_workers_compute_at_a_time_and_no_more_than_they_are() -> None:
    meeting = threading.Barrier(2)

    class Meeting(Recorder):
        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            self._note("compute")
            meeting.wait(10)
            return input_tensor

    recorder = Meeting()
    async with loopback(compute_fn=recorder, compute_options=ComputeOptions(max_workers=2)) as (_, client):
        await asyncio.gather(*(client.compute(torch.ones(1)) for _ in range(6)))

    assert len(recorder.threads) == 2


async def test_a_reply_comes_in_the_codec_asked_for_else_in_the_servers_own() -> None:
    x = torch.ones(64, 64)
    sizes = {}
    async with loopback(compute_fn=Recorder(), compute_options=ComputeOptions(codec=CompressedTensorCodec())) as (
        server,
        _,
    ):
        for codec in (None, Int8Codec()):
            async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", codec=codec) as client:
                assert torch.equal(await client.compute(x), x * 2)
                sizes[codec and codec.name] = client.get_statistics()

    assert sizes[None]["bytes_sent"] > x.nbytes > 50 * sizes[None]["bytes_received"]
    for direction in ("bytes_sent", "bytes_received"):
        assert x.numel() < sizes["int8"][direction] < 0.3 * x.nbytes


def test_a_codec_that_is_not_on_the_wire_is_refused_at_the_start() -> None:
    class Own(TensorCodec):
        name = "own"

    with pytest.raises(UnknownCodec, match="unknown codec 'own'"):
        AsyncGRPCComputeServer(compute_fn=Recorder(), compute_options=ComputeOptions(codec=Own()))
    with pytest.raises(UnknownCodec, match="unknown codec 'own'"):
        AsyncGRPCComputeClient("127.0.0.1:1", codec=Own())


async def test_a_result_that_is_too_large_is_the_servers_fault_and_the_next_call_works() -> None:
    class Inflating(Recorder):
        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            return input_tensor.expand(MAX_MESSAGE_BYTES) if input_tensor.numel() else input_tensor

    async with loopback(compute_fn=Inflating()) as (_, client):
        with pytest.raises(RemoteFailure, match="the reply cannot be sent: a message of"):
            await client.compute(torch.ones(1, dtype=torch.uint8))
        assert (await client.compute(torch.empty(0, 3))).shape == (0, 3)


async def test_a_model_is_served_in_its_own_dtype() -> None:
    model = torch.nn.Linear(4, 3).bfloat16()
    x = torch.randn(2, 4).bfloat16()
    async with loopback(compute_fn=ModelComputeFunction(model)) as (_, client):
        assert torch.equal(await client.compute(x), model(x))


async def test_a_compute_functions_refusal_arrives_as_it_was_raised() -> None:
    async with loopback(compute_fn=Recorder()) as (_, client):
        with pytest.raises(InvalidTensor, match=r"^expected 2 dimensions, got 1$"):
            await client.compute(torch.ones(3))
        assert torch.equal(await client.compute(torch.ones(1, 1)), torch.full((1, 1), 2.0))


async def test_an_unexpected_exception_shows_its_type_and_nothing_else() -> None:
    async with loopback(compute_fn=Recorder()) as (_, client):
        with pytest.raises(RemoteFailure, match=r"^ZeroDivisionError in Compute; the server's log says more$"):
            await client.compute(torch.ones(0, 2))


async def test_info_of_a_compute_function_keeps_extra_facts_as_attributes() -> None:
    async with loopback(compute_fn=Recorder()) as (_, client):
        await client.compute(torch.ones(1, 1))
        info = await client.service_info()

    assert (info.service_name, info.version, info.device) == ("doubler", "3", "cpu")
    assert info.attributes == {"layers": "4"}
    assert info.total_requests == 1
    assert info.uptime_seconds > 0


async def test_what_a_server_was_not_given_it_says_it_does_not_serve() -> None:
    async with loopback(session_host=EchoSessionHost()) as (_, client):
        with pytest.raises(NotServed, match="no compute function"):
            await client.compute(torch.ones(1, 1))
    async with loopback(compute_fn=Recorder()) as (_, client):
        stream = client.stream(OPENING)
        with pytest.raises(NotServed, match="opens no sessions"):
            await stream.step(Frame(0, torch.ones(1, 1)))


async def test_stopping_closes_open_sessions_before_it_returns_and_tells_their_clients() -> None:
    host = EchoSessionHost()
    async with loopback(session_host=host) as (server, client):
        streams = [client.stream(SessionOpening(name, "echo", 64)) for name in ("one", "two")]
        for stream in streams:
            await stream.step(Frame(0, torch.ones(1, 4)))

        await server.stop()

        assert [session.times_closed for session in host.sessions] == [1, 1]
        for stream in streams:
            with pytest.raises(Unreachable, match=f"127.0.0.1:{server.port}"):
                await stream.receive()
    assert [session.times_closed for session in host.sessions] == [1, 1]


async def test_a_stream_that_ends_within_the_grace_ends_well() -> None:
    async with loopback(session_host=EchoSessionHost()) as (server, client):
        stream = client.stream(OPENING)
        await stream.step(Frame(0, torch.ones(1, 4)))
        async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as other:
            watching = health_pb2_grpc.HealthStub(other).Watch(health_pb2.HealthCheckRequest())
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.SERVING

            stopping = asyncio.create_task(server.stop(grace=5))
            assert (await watching.read()).status == health_pb2.HealthCheckResponse.NOT_SERVING
            watching.cancel()

        await stream.step(Frame(1, torch.ones(1, 4)))
        await stream.close()
        await stopping


async def test_a_client_that_only_keeps_its_connection_does_not_hold_up_a_stop() -> None:
    async with loopback(compute_fn=Recorder()) as (server, client):
        await client.compute(torch.ones(1, 1))

        async with asyncio.timeout(5):
            await server.stop(grace=60)

        with pytest.raises(Unreachable):
            await client.compute(torch.ones(1, 1))


async def test_a_compute_under_way_is_answered_within_the_grace() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(Recorder):
        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            entered.set()
            assert release.wait(10)
            return input_tensor

    async with loopback(compute_fn=Slow()) as (server, client):
        computing = asyncio.create_task(client.compute(torch.ones(1, 1)))
        await asyncio.to_thread(entered.wait, 10)
        stopping = asyncio.create_task(server.stop(grace=60))
        release.set()

        assert torch.equal(await computing, torch.ones(1, 1))
        await asyncio.wait_for(stopping, 5)


async def test_whoever_waits_for_termination_may_give_up_and_the_server_still_stops() -> None:
    async with AsyncGRPCComputeServer(session_host=EchoSessionHost()) as server:
        waiting = asyncio.create_task(server.wait_for_termination())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait({waiting})
        await asyncio.wait_for(server.stop(), 5)


async def test_waiting_for_termination_ends_with_stop() -> None:

    server = AsyncGRPCComputeServer(session_host=EchoSessionHost())
    await server.start()
    waiting = asyncio.create_task(server.wait_for_termination())

    await server.stop()

    await asyncio.wait_for(waiting, timeout=5)
    await server.stop()


async def test_a_second_client_is_served_while_the_first_computes() -> None:
    entered, release = threading.Event(), threading.Event()

    class Slow(Recorder):
        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            entered.set()
            assert release.wait(10)
            return input_tensor

    async with loopback(compute_fn=Slow()) as (server, client):
        computing = asyncio.create_task(client.compute(torch.ones(1, 1)))
        await asyncio.to_thread(entered.wait, 10)
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as other:
            assert await other.health()
        assert not computing.done()
        release.set()
        await computing


async def test_no_compute_runs_before_setup_has_ended_however_many_workers_there_are() -> None:
    begun, may_end = threading.Event(), threading.Event()

    class Slow(Recorder):
        def setup(self) -> None:
            begun.set()
            assert may_end.wait(60)
            super().setup()

    recorder, port = Slow(), free_port()
    server = AsyncGRPCComputeServer(compute_fn=recorder, port=port, compute_options=ComputeOptions(max_workers=4))
    starting = asyncio.create_task(server.start())
    async with AsyncGRPCComputeClient(f"127.0.0.1:{port}", timeout=60) as client:
        await asyncio.to_thread(begun.wait, 60)
        computing = asyncio.create_task(client.compute(torch.ones(2, 2)))
        # answered by the server that waits, so the compute above has been sent before
        assert not await client.health()
        may_end.set()
        await computing
        await starting
        await server.stop()
    assert recorder.events == ["setup", "compute", "teardown"]
