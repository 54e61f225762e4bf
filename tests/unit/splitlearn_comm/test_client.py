"""Calls outside of streams, and what a client does about servers that are not there."""

import asyncio
import socket
import threading
from collections.abc import Iterator, Mapping

import grpc.aio
import pytest
import torch

from splitlearn_comm.client import AsyncGRPCComputeClient
from splitlearn_comm.core import ComputeFunction, ComputeOptions, SessionOpening
from splitlearn_comm.errors import Cancelled, InvalidTensor, NotServed, Overloaded, TimedOut, Unreachable
from splitlearn_comm.frames import Frame
from splitlearn_comm.options import MAX_MESSAGE_BYTES
from splitlearn_comm.retry import FixedDelay
from splitlearn_comm.server import AsyncGRPCComputeServer
from splitlearn_comm.testing import EchoSessionHost, loopback


class Waiting(ComputeFunction):
    """Computes when it is told to."""

    def __init__(self) -> None:
        self.entered, self.release = threading.Event(), threading.Event()

    def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
        self.entered.set()
        if not self.release.wait(10):
            raise TimeoutError("never released")
        return input_tensor

    def get_info(self) -> Mapping[str, object]:
        return {}


@pytest.fixture
def free_address() -> Iterator[str]:
    """Bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


async def test_every_call_says_which_address_does_not_answer(free_address: str) -> None:
    async with AsyncGRPCComputeClient(free_address) as client:
        for call in (client.connect(), client.health(), client.service_info(), client.compute(torch.ones(1))):
            with pytest.raises(Unreachable, match=rf"no answer from {free_address}; check that a server runs there"):
                await call


async def test_an_answer_that_is_late_times_out_by_the_call_or_the_client() -> None:
    waiting = Waiting()
    async with loopback(compute_fn=waiting, timeout=0.05) as (server, client):
        with pytest.raises(TimedOut, match=f"127.0.0.1:{server.port} did not answer within 0.05 s"):
            await client.compute(torch.ones(1))
        patient = asyncio.create_task(client.compute(torch.ones(1), timeout=10))
        waiting.release.set()
        assert torch.equal(await patient, torch.ones(1))


async def test_computes_follow_each_other_on_one_stream_and_run_beside_each_other_on_several() -> None:
    both = threading.Barrier(2)

    class Meeting(Waiting):
        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            if input_tensor.numel() == 2:
                both.wait(10)
            return input_tensor

    async with loopback(compute_fn=Meeting(), compute_options=ComputeOptions(max_workers=2)) as (_, client):
        for _ in range(5):
            await client.compute(torch.ones(1))
        assert repr(client).endswith(" 1 streams>")

        await asyncio.gather(*(client.compute(torch.ones(2)) for _ in range(2)))
        assert repr(client).endswith(" 2 streams>")


async def test_what_may_pass_is_retried_and_counted() -> None:
    class Full(Waiting):
        def __init__(self) -> None:
            super().__init__()
            self.room_after = 2

        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            if self.room_after:
                self.room_after -= 1
                raise Overloaded("no room")
            return input_tensor

    async with loopback(compute_fn=Full()) as (server, _):
        retry = FixedDelay(max_retries=3, delay=0)
        async with AsyncGRPCComputeClient(f"127.0.0.1:{server.port}", retry_strategy=retry) as client:
            assert torch.equal(await client.compute(torch.ones(1)), torch.ones(1))
            counted = client.get_statistics()

    assert (counted["total_requests"], counted["failed_requests"], counted["retries"]) == (1, 0, 2)
    assert counted["avg_total_time_ms"] > counted["avg_network_time_ms"] > 0


async def test_without_a_strategy_the_first_failure_is_raised_and_counted(free_address: str) -> None:
    async with AsyncGRPCComputeClient(free_address) as client:
        with pytest.raises(Unreachable):
            await client.compute(torch.ones(1))
        counted = client.get_statistics()

    assert (counted["total_requests"], counted["failed_requests"], counted["retries"]) == (1, 1, 0)


async def test_a_compute_after_the_server_came_back_goes_through() -> None:
    waiting = Waiting()
    waiting.release.set()
    async with AsyncGRPCComputeServer(compute_fn=waiting) as first:
        client = AsyncGRPCComputeClient(
            f"127.0.0.1:{first.port}", retry_strategy=FixedDelay(max_retries=50, delay=0.05)
        )
        await client.compute(torch.ones(1))
    async with client, AsyncGRPCComputeServer(compute_fn=waiting, port=first.port):
        assert torch.equal(await client.compute(torch.ones(1)), torch.ones(1))


async def test_connect_succeeds_when_somebody_answers() -> None:
    async with loopback(session_host=EchoSessionHost()) as (_, client):
        await client.connect()


async def test_a_tensor_above_the_limit_is_not_sent() -> None:
    waiting = Waiting()
    async with loopback(compute_fn=waiting) as (_, client):
        with pytest.raises(InvalidTensor, match="exceeds the limit"):
            await client.compute(torch.zeros(MAX_MESSAGE_BYTES, dtype=torch.uint8))

    assert not waiting.entered.is_set()


async def test_closing_wakes_calls_and_streams_that_are_under_way() -> None:
    waiting = Waiting()
    async with loopback(session_host=EchoSessionHost(), compute_fn=waiting) as (_, client):
        stream = client.stream(SessionOpening("one", "echo", 4))
        await stream.step(Frame(0, torch.ones(1, 2)))
        receiving = asyncio.create_task(stream.receive())
        computing = asyncio.create_task(client.compute(torch.ones(1)))
        await asyncio.to_thread(waiting.entered.wait, 10)

        await client.close()

        for call in (receiving, computing):
            with pytest.raises(Cancelled):
                await call
        waiting.release.set()


async def test_a_closed_client_refuses_calls_and_closes_twice() -> None:
    client = AsyncGRPCComputeClient("127.0.0.1:1")
    await client.close()
    await client.close()

    assert repr(client) == "<AsyncGRPCComputeClient 127.0.0.1:1 closed>"
    with pytest.raises(Cancelled, match=r"client of 127\.0\.0\.1:1 is closed"):
        await client.service_info()
    with pytest.raises(Cancelled, match=r"client of 127\.0\.0\.1:1 is closed"):
        client.stream(SessionOpening("one", "echo", 4))


async def test_a_cancelled_call_is_cancelled_and_not_given_an_error() -> None:
    waiting = Waiting()
    async with loopback(compute_fn=waiting) as (_, client):
        computing = asyncio.create_task(client.compute(torch.ones(1)))
        await asyncio.to_thread(waiting.entered.wait, 10)

        computing.cancel()

        with pytest.raises(asyncio.CancelledError):
            await computing
        waiting.release.set()


async def test_another_grpc_service_at_the_address_is_said_to_be_one() -> None:
    other = grpc.aio.server()
    port = other.add_insecure_port("127.0.0.1:0")
    await other.start()

    async with AsyncGRPCComputeClient(f"127.0.0.1:{port}") as client:
        with pytest.raises(NotServed, match=f"the server at 127.0.0.1:{port} does not serve this"):
            await client.service_info()

    await other.stop(None)


async def test_sessions_spread_over_all_addresses_of_the_target() -> None:
    hosts = [EchoSessionHost(), EchoSessionHost()]
    async with (
        AsyncGRPCComputeServer(session_host=hosts[0]) as first,
        AsyncGRPCComputeServer(session_host=hosts[1]) as second,
        AsyncGRPCComputeClient(f"ipv4:127.0.0.1:{first.port},127.0.0.1:{second.port}") as client,
        asyncio.timeout(10),
    ):
        # The first streams may come before the second connection stands.
        while not all(host.sessions for host in hosts):
            await one_session(client)
        before = [len(host.sessions) for host in hosts]
        for _ in range(6):
            await one_session(client)

    assert [len(host.sessions) - start for host, start in zip(hosts, before, strict=True)] == [3, 3]


async def one_session(client: AsyncGRPCComputeClient) -> None:
    async with client.stream(SessionOpening("one", "echo", 4)) as stream:
        await stream.step(Frame(0, torch.ones(1, 2)))


async def test_a_watch_of_health_says_each_change_and_that_the_server_is_gone() -> None:
    async with loopback(session_host=EchoSessionHost()) as (server, client):
        watch = client.watch_health()
        assert await anext(watch)
        await server.set_serving(False)
        assert not await anext(watch)
        await server.set_serving(True)
        assert await anext(watch)
        await server.stop()
        # what the server says while it stops comes first
        with pytest.raises(Unreachable):
            _ = [each async for each in watch]
