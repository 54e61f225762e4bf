"""Puts an engine together: a part, the runner that suits it, limits."""

import logging
import time
from collections.abc import Callable
from typing import Any

from splitlearn.engine import DeviceThread, Engine, Limits
from splitlearn.engine.observer import EngineObserver
from splitlearn.model.part import Part
from splitlearn.runner.interface import Runner
from splitlearn.runner.select import runner_for


def build_engine(
    part: Part,
    thread: DeviceThread,
    limits: Limits | None = None,
    observer: EngineObserver | None = None,
    runner: Callable[[Part, int | None], Runner[Any]] = runner_for,
    clock: Callable[[], float] = time.monotonic,
) -> Engine:
    """An engine that runs `part`, and takes it over.

    Runs some small steps through the part first, to measure a row and to see which modules can be fused: call it where
    that may take a while.

    Args:
        part: filled, unless `runner` makes one that computes the layers itself.
        thread: runs the steps; several engines may share it.
        limits: how many rows, sessions and bytes.
        observer: hears of steps and sessions.
        runner: makes the runner, from the part and the bytes for keys and values.
        clock: seconds, never going back.

    Raises:
        NoRoom: the memory does not hold a page of keys and values.
    """
    limits = limits or Limits()
    chosen = runner(part, limits.kv_cache_memory_bytes)
    logging.getLogger(__name__).info(
        "part %s runs %s on %s, %s",
        part.spec,
        "batched" if chosen.is_batched else "sequentially",
        chosen.device,
        chosen.fusion,
    )
    return Engine(chosen, thread, limits, observer, clock)
