"""Runs a part for many sessions on one device thread."""

from splitlearn.engine.cores import cores_name
from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.engine import Engine
from splitlearn.engine.limits import Limits
from splitlearn.engine.observer import EngineObserver, NoObserver
from splitlearn.engine.request import RowReader, StepResult
from splitlearn.engine.session import EngineSession
from splitlearn.engine.speculation import Speculation

__all__ = [
    "DeviceThread",
    "Engine",
    "EngineObserver",
    "EngineSession",
    "Limits",
    "NoObserver",
    "RowReader",
    "Speculation",
    "StepResult",
    "Timing",
    "cores_name",
]
