"""The trunk image's health check, against a real server."""

import asyncio
from collections.abc import Callable

import pytest
import torch

from splitlearn_comm import AsyncGRPCComputeServer, HealthServer, HealthState, ModelComputeFunction
from support.scripts import main_of


@pytest.fixture
def main() -> Callable[[], int]:
    return main_of("trunk_health")


async def test_a_serving_trunk_is_healthy(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncGRPCComputeServer(compute_fn=ModelComputeFunction(torch.nn.Identity())) as server:
        monkeypatch.setenv("SPLITLEARN_TRUNK_PORT", str(server.port))
        assert await asyncio.to_thread(main) == 0
    assert "SERVING" in capsys.readouterr().out


async def test_a_trunk_that_says_not_serving_is_unhealthy(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncGRPCComputeServer(compute_fn=ModelComputeFunction(torch.nn.Identity())) as server:
        await server.set_serving(False)
        monkeypatch.setenv("SPLITLEARN_TRUNK_PORT", str(server.port))
        assert await asyncio.to_thread(main) == 1
    assert "NOT_SERVING" in capsys.readouterr().out


async def test_a_trunk_that_is_gone_is_unhealthy_and_the_check_says_why(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async with AsyncGRPCComputeServer(compute_fn=ModelComputeFunction(torch.nn.Identity())) as server:
        monkeypatch.setenv("SPLITLEARN_TRUNK_PORT", str(server.port))
    assert await asyncio.to_thread(main) == 1
    assert f"127.0.0.1:{server.port}: UNAVAILABLE" in capsys.readouterr().out


async def test_a_trunk_with_a_health_port_is_asked_there(
    main: Callable[[], int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = HealthState()
    monkeypatch.setenv("SPLITLEARN_TRUNK_PORT", "1")
    async with HealthServer(state) as server:
        monkeypatch.setenv("SPLITLEARN_TRUNK_HEALTH_PORT", str(server.port))
        assert await asyncio.to_thread(main) == 1
        state.set_serving(True)
        assert await asyncio.to_thread(main) == 0
    assert capsys.readouterr().out.split() == [
        f"127.0.0.1:{server.port}:",
        "NOT_SERVING",
        f"127.0.0.1:{server.port}:",
        "SERVING",
    ]
