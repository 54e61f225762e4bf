from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from llm_sepweight import Manifest
from splitlearn.engine import DeviceThread, Engine
from splitlearn.loading import load_part
from splitlearn.plan import SplitPlan, fingerprint
from splitlearn_comm import AsyncGRPCComputeClient, AsyncGRPCComputeServer, ServiceInfo
from support.running_trunk import RunningTrunk
from trunk_service.endpoint import TrunkHost
from trunk_service.metrics import TrunkMetrics


@pytest.fixture(scope="module")
def thread() -> Iterator[DeviceThread]:
    with DeviceThread(1) as thread:
        yield thread


@pytest.fixture(scope="module")
def engine(thread: DeviceThread, tiny_weights: Path) -> Engine:
    return Engine(load_part(tiny_weights, "1-4"), thread)


@pytest.fixture
async def trunk(engine: Engine, thread: DeviceThread, tiny_weights: Path) -> AsyncIterator[RunningTrunk]:
    manifest = Manifest.read(tiny_weights)
    text = fingerprint(manifest, SplitPlan(1, 4, 5), "float32")
    metrics = TrunkMetrics()
    info = ServiceInfo(
        service_name="splitlearn-trunk", version="0", device="cpu", fingerprint=text, attributes={"layers": "1-4"}
    )
    host = TrunkHost(engine, text, info, metrics)
    async with (
        AsyncGRPCComputeServer(host="127.0.0.1", port=0, session_host=host, observer=metrics) as server,
        AsyncGRPCComputeClient(f"127.0.0.1:{server.port}") as client,
    ):
        yield RunningTrunk(client, engine, thread, metrics, text)
