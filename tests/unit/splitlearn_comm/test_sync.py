"""The blocking classes, from plain threads."""

import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from splitlearn_comm.core import ComputeFunction, Int8Codec, TensorCodec
from splitlearn_comm.errors import Cancelled, InvalidTensor, Overloaded, PortUnavailable, Unreachable
from splitlearn_comm.retry import FixedDelay
from splitlearn_comm.sync import GRPCComputeClient, GRPCComputeServer


class Doubler(ComputeFunction):
    def __init__(self) -> None:
        self.events: list[str] = []

    def setup(self) -> None:
        self.events.append("setup")

    def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
        if input_tensor.dtype is torch.bool:
            raise InvalidTensor("twice a bool is none")
        return input_tensor * 2

    def teardown(self) -> None:
        self.events.append("teardown")

    def get_info(self) -> dict[str, object]:
        return {"model_name": "doubler", "device": "cpu"}


@pytest.fixture
def server() -> Iterator[GRPCComputeServer]:
    with GRPCComputeServer(Doubler(), host="127.0.0.1", port=0, version="7") as server:
        yield server


@pytest.fixture
def client(server: GRPCComputeServer) -> Iterator[GRPCComputeClient]:
    with GRPCComputeClient(f"127.0.0.1:{server.port}") as client:
        yield client


@pytest.fixture
def free_address() -> Iterator[str]:
    """Bound, so that nobody else takes it, but not listening."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{bound.getsockname()[1]}"


def test_a_tensor_goes_there_and_back_and_is_the_callers(client: GRPCComputeClient) -> None:
    for x in (torch.ones(2, 3), torch.ones(()).bfloat16(), torch.empty(0, 4), torch.arange(6).reshape(2, 3).t()):
        output = client.compute(x)

        assert output.dtype is x.dtype
        assert torch.equal(output, x * 2)
        output.add_(1)


def test_connect_and_health_check_answer_and_compute_raises(client: GRPCComputeClient, free_address: str) -> None:
    assert client.connect() is True
    assert client.health_check() is True
    assert client.trouble is None

    with GRPCComputeClient(free_address) as lost:
        for ask in (lost.connect, lost.health_check):
            assert ask() is False
            assert lost.trouble is not None
            assert f"no answer from {free_address}" in lost.trouble
        with pytest.raises(Unreachable, match=f"no answer from {free_address}"):
            lost.compute(torch.ones(1))
        with pytest.raises(Unreachable):
            lost.get_service_info()


def test_an_error_of_the_function_is_raised_as_it_was_there(client: GRPCComputeClient) -> None:
    with pytest.raises(InvalidTensor, match=r"^twice a bool is none$"):
        client.compute(torch.ones(1, dtype=torch.bool))


def test_service_info_is_one_dictionary(client: GRPCComputeClient) -> None:
    client.compute(torch.ones(1))

    info = client.get_service_info()

    assert info.pop("uptime_seconds") > 0  # type: ignore[attr-defined, operator]
    assert info == {
        "service_name": "Doubler",
        "version": "7",
        "device": "cpu",
        "fingerprint": "",
        "total_requests": 1,
        "model_name": "doubler",
    }


def test_threads_share_a_client_and_every_answer_reaches_its_asker(client: GRPCComputeClient) -> None:
    with ThreadPoolExecutor(8) as threads:
        outputs = list(threads.map(lambda number: client.compute(torch.full((3,), number)), range(100)))

    assert [output.tolist() for output in outputs] == [[2 * number] * 3 for number in range(100)]
    statistics = client.get_statistics()
    assert (statistics["total_requests"], statistics["failed_requests"]) == (100, 0)
    assert statistics["avg_network_time_ms"] > 0


def test_retries_and_codec_reach_the_client_behind(server: GRPCComputeServer) -> None:
    address, x = f"127.0.0.1:{server.port}", torch.ones(64, 64)
    with GRPCComputeClient(address, 10.0, FixedDelay(2, 0), Int8Codec()) as client:
        assert torch.equal(client.compute(x), x * 2)
        assert client.get_statistics()["bytes_sent"] < 0.3 * x.nbytes

    class Full(Doubler):
        def compute(self, input_tensor: torch.Tensor) -> torch.Tensor:
            raise Overloaded("no room")

    with (
        GRPCComputeServer(Full(), "127.0.0.1", 0, 2, TensorCodec()) as full,
        GRPCComputeClient(f"127.0.0.1:{full.port}", retry_strategy=FixedDelay(2, 0)) as client,
    ):
        with pytest.raises(Overloaded, match=r"^no room$"):
            client.compute(x)
        assert client.get_statistics()["retries"] == 2


def test_a_server_starts_in_one_thread_is_waited_for_in_another_and_stopped_in_a_third() -> None:
    function = Doubler()
    server = GRPCComputeServer(function, host="127.0.0.1", port=0)
    starting = threading.Thread(target=server.start)
    starting.start()
    starting.join()

    with GRPCComputeClient(f"127.0.0.1:{server.port}") as client:
        assert client.health_check()
    waiting = threading.Thread(target=server.wait_for_termination, daemon=True)
    waiting.start()
    server.stop()
    waiting.join(10)

    assert not waiting.is_alive()
    assert repr(server) == f"<GRPCComputeServer 127.0.0.1:{server.port} stopped>"
    assert function.events == ["setup", "teardown"]
    server.stop()


def test_a_busy_port_is_told_by_start(server: GRPCComputeServer) -> None:
    with pytest.raises(PortUnavailable, match=str(server.port)):
        GRPCComputeServer(Doubler(), host="127.0.0.1", port=server.port).start()


def test_a_closed_client_refuses_and_closes_twice(server: GRPCComputeServer) -> None:
    client = GRPCComputeClient(f"127.0.0.1:{server.port}")
    client.close()
    client.close()

    assert repr(client) == f"<GRPCComputeClient 127.0.0.1:{server.port} closed>"
    assert client.connect() is False
    with pytest.raises(Cancelled, match="is closed"):
        client.compute(torch.ones(1))
