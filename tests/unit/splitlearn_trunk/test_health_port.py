"""The health port of a worker: where it listens, and why not."""

import socket

import pytest
from structlog.testing import capture_logs

from splitlearn_comm import AsyncGRPCComputeClient, HealthState, PortUnavailable
from splitlearn_trunk.health_port import reported


async def test_it_listens_until_the_context_ends_and_says_where() -> None:
    state = HealthState()
    with capture_logs() as lines:
        async with reported(state, "127.0.0.1", 0):
            (line,) = lines
            async with AsyncGRPCComputeClient(line["address"]) as probe:
                assert not await probe.health()
                state.set_serving(True)
                assert await probe.health()
    host, port = line["address"].split(":")
    with socket.socket() as gone:
        assert gone.connect_ex((host, int(port))) != 0


async def test_without_a_port_nothing_listens() -> None:
    with capture_logs() as lines:
        async with reported(HealthState(), "127.0.0.1", None):
            assert lines == []


async def test_a_busy_port_is_refused_with_its_flag() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortUnavailable, match=rf"^--health-port: 127\.0\.0\.1:{port} "):
            async with reported(HealthState(), "127.0.0.1", port):
                pass
