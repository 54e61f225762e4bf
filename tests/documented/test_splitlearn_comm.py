"""The code blocks of the splitlearn-comm document, with the documented imports, calls and flags.

Changed: ports are free ones of loopback, models have 768 features but run on the CPU.
"""

import subprocess
import sys
from collections.abc import Iterator
from threading import Thread

import pytest
import torch

PORT_OF_THE_DOCUMENT = 50051


@pytest.fixture(scope="module")
def model() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Linear(768, 768), torch.nn.ReLU(), torch.nn.Linear(768, 768))


@pytest.fixture
def address(model: torch.nn.Module) -> Iterator[str]:
    """Of the server of the document's first example."""
    from splitlearn_comm import GRPCComputeServer
    from splitlearn_comm.core import ModelComputeFunction

    compute_fn = ModelComputeFunction(model, device="cpu")
    server = GRPCComputeServer(compute_fn=compute_fn, host="0.0.0.0", port=0)

    server.start()
    waiting = Thread(target=server.wait_for_termination, daemon=True)
    waiting.start()
    yield f"localhost:{server.port}"
    server.stop()
    waiting.join(10)
    assert not waiting.is_alive()


def test_client_example(address: str, model: torch.nn.Module) -> None:
    from splitlearn_comm import GRPCComputeClient

    client = GRPCComputeClient(address)
    client.connect()

    input_tensor = torch.randn(1, 10, 768)
    output_tensor = client.compute(input_tensor)

    assert f"Output shape: {output_tensor.shape}" == "Output shape: torch.Size([1, 10, 768])"
    torch.testing.assert_close(output_tensor, model(input_tensor).detach())
    stats = client.get_statistics()
    assert f"Total requests: {stats['total_requests']}" == "Total requests: 1"
    assert f"Avg network time: {stats['avg_network_time_ms']:.2f}ms".endswith("ms")

    client.close()


def test_compute_function(model: torch.nn.Module) -> None:
    from splitlearn_comm import GRPCComputeClient, GRPCComputeServer
    from splitlearn_comm.core import ComputeFunction

    class MyComputeFunction(ComputeFunction):
        def __init__(self, model):  # type: ignore[no-untyped-def]
            self.model = model

        def compute(self, input_tensor):  # type: ignore[no-untyped-def]
            with torch.no_grad():
                return self.model(input_tensor)

        def get_info(self):  # type: ignore[no-untyped-def]
            return {"model_name": "MyModel", "device": "cuda"}

    with (
        GRPCComputeServer(MyComputeFunction(model), port=0) as server,
        GRPCComputeClient(f"localhost:{server.port}") as client,
    ):
        x = torch.randn(2, 768)
        torch.testing.assert_close(client.compute(x), model(x).detach())
        info = client.get_service_info()
    assert (info["model_name"], info["device"]) == ("MyModel", "cuda")


def test_retry_strategy(address: str) -> None:
    from splitlearn_comm import ExponentialBackoff, GRPCComputeClient

    retry = ExponentialBackoff(max_retries=5, initial_delay=1.0, max_delay=30.0)

    client = GRPCComputeClient(address, retry_strategy=retry)

    assert client.compute(torch.ones(1, 768)).shape == (1, 768)
    client.close()


def test_compressed_communication(model: torch.nn.Module) -> None:
    from splitlearn_comm import GRPCComputeClient, GRPCComputeServer
    from splitlearn_comm.core import CompressedTensorCodec, ModelComputeFunction

    compute_fn = ModelComputeFunction(model)
    codec = CompressedTensorCodec(compression_level=6)

    server = GRPCComputeServer(compute_fn=compute_fn, codec=codec, port=0)

    with server, GRPCComputeClient(f"localhost:{server.port}", codec=codec) as client:
        zeros = torch.zeros(64, 768)
        torch.testing.assert_close(client.compute(zeros), model(zeros).detach())
        stats = client.get_statistics()
    assert stats["bytes_sent"] < zeros.nbytes / 20
    assert stats["bytes_received"] < zeros.nbytes / 20


def test_context_managers(model: torch.nn.Module) -> None:
    from splitlearn_comm import GRPCComputeClient, GRPCComputeServer
    from splitlearn_comm.core import ModelComputeFunction

    compute_fn = ModelComputeFunction(model)
    with GRPCComputeServer(compute_fn, port=0) as server:
        pass
    with GRPCComputeClient(f"localhost:{server.port}") as gone:
        assert gone.health_check() is False

    with (
        GRPCComputeServer(compute_fn, port=0) as server,
        GRPCComputeClient(f"localhost:{server.port}") as client,
    ):
        output = client.compute(torch.ones(1, 768))
    assert output.shape == (1, 768)


def test_health_checks_and_service_info(address: str) -> None:
    from splitlearn_comm import GRPCComputeClient

    client = GRPCComputeClient(address)

    is_healthy = client.health_check()

    info = client.get_service_info()
    assert is_healthy is True
    assert f"Service: {info['service_name']}" == "Service: Sequential"
    assert f"Version: {info['version']}" == "Version: 1.0.0"
    assert f"Device: {info['device']}" == "Device: cpu"
    assert f"Total requests: {info['total_requests']}" == "Total requests: 0"
    client.close()


def test_the_minimal_smoke_test() -> None:
    script = """
from splitlearn_comm import GRPCComputeClient, GRPCComputeServer
from splitlearn_comm.core import ComputeFunction
print("imports ok")
"""
    ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=True)
    assert ran.stdout == "imports ok\n"


def test_a_script_that_closes_nothing_ends_quietly() -> None:
    script = """
import torch
from splitlearn_comm import GRPCComputeClient, GRPCComputeServer
from splitlearn_comm.core import ModelComputeFunction
server = GRPCComputeServer(ModelComputeFunction(torch.nn.Identity()), host="127.0.0.1", port=0)
server.start()
client = GRPCComputeClient(f"127.0.0.1:{server.port}")
client.compute(torch.ones(1))
"""
    ran = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=True, timeout=60)
    assert (ran.stdout, ran.stderr) == ("", "")


def test_the_documented_signatures(model: torch.nn.Module) -> None:
    from splitlearn_comm import ExponentialBackoff, FixedDelay, GRPCComputeClient, GRPCComputeServer
    from splitlearn_comm.core import CompressedTensorCodec, ModelComputeFunction, TensorCodec

    server = GRPCComputeServer(
        ModelComputeFunction(model, device="cpu", model_name="mine"),
        host="127.0.0.1",
        port=0,
        max_workers=2,
        codec=TensorCodec(),
        version="2.1",
    )
    server.start()
    client = GRPCComputeClient(
        f"localhost:{server.port}",
        timeout=5.0,
        retry_strategy=FixedDelay(max_retries=3, delay=0.1),
        codec=CompressedTensorCodec(compression_level=1),
    )
    assert client.connect() is True
    assert client.get_service_info()["version"] == "2.1"
    client.close()
    server.stop()
    assert GRPCComputeServer(ModelComputeFunction(model)).port == PORT_OF_THE_DOCUMENT
    assert ExponentialBackoff(max_retries=3, initial_delay=1.0, max_delay=30.0, jitter=0.25) == ExponentialBackoff()


def test_the_codecs_two_argument_form_speaks_float32() -> None:
    from splitlearn_comm.core import CompressedTensorCodec, TensorCodec

    for codec in (TensorCodec(), CompressedTensorCodec(compression_level=6)):
        for tensor in (torch.randn(2, 3), torch.randn(3, 2).t(), torch.tensor(1.5), torch.empty(0, 4)):
            data, shape = codec.encode(tensor)
            assert isinstance(data, bytes)
            assert shape == tuple(tensor.shape)
            assert torch.equal(codec.decode(data, shape), tensor)


def test_a_retry_strategy_executes_any_function() -> None:
    from splitlearn_comm import ExponentialBackoff, Unreachable

    failures = [Unreachable("not yet"), Unreachable("nearly")]

    def fn() -> str:
        if failures:
            raise failures.pop(0)
        return "done"

    assert ExponentialBackoff(max_retries=2, initial_delay=0.001).execute(fn) == "done"
