"""Run a part for many sessions on one device thread."""

from splitlearn.engine.device_thread import DeviceThread, Timing
from splitlearn.engine.engine import Engine, EngineSession, Step

__all__ = ["DeviceThread", "Engine", "EngineSession", "Step", "Timing"]
