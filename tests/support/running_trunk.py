"""A real trunk on loopback, with what tests look at."""

from dataclasses import dataclass

from splitlearn.engine import DeviceThread, Engine
from splitlearn_comm import AsyncGRPCComputeClient
from trunk_service.metrics import TrunkMetrics


@dataclass
class RunningTrunk:
    """Its client, and the objects behind its endpoint."""

    client: AsyncGRPCComputeClient
    engine: Engine
    thread: DeviceThread
    metrics: TrunkMetrics
    fingerprint: str

    def count(self, name: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"splitlearn_trunk_{name}", labels) or 0.0
