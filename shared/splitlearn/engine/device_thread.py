"""The one thread that touches the device, so that the event loop never waits for a kernel.

One thread per process and not one per part: each thread that runs torch operators brings its own pool of
OpenMP threads, and two pools on the same cores slow each other down.
"""

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch

R = TypeVar("R")


@dataclass(frozen=True)
class Timing:
    """How long a piece of work waited for the thread and how long it ran, in seconds."""

    queue_seconds: float
    compute_seconds: float


class DeviceThread:
    """Runs functions one after the other, in the order in which they were given.

    Args:
        n_threads: cores that torch may use inside one operator; None leaves torch's own choice.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="device")
        if n_threads is not None:
            self._executor.submit(torch.set_num_threads, n_threads).result()

    async def run(self, function: Callable[..., R], *args: Any) -> tuple[R, Timing]:
        """The function's result and its timing. Cancelling the caller takes work that has not begun off the queue."""
        asked = time.perf_counter()

        def timed() -> tuple[R, Timing]:
            began = time.perf_counter()
            result = function(*args)
            return result, Timing(began - asked, time.perf_counter() - began)

        return await asyncio.wrap_future(self._executor.submit(timed))

    def close(self) -> None:
        """Lets running work finish, drops what waits, and ends the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
