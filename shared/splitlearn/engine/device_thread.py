"""The one thread that touches the device, so that the event loop never waits for a kernel.

One thread per process and not one per part: each thread that runs torch operators brings its own pool of
OpenMP threads, and two pools on the same cores slow each other down.
"""

import asyncio
import threading
import time
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import torch

from splitlearn.engine.arrivals import ArrivalEstimator

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
        self._estimators: tuple[weakref.ref[ArrivalEstimator], ...] = ()
        self._adding_lock = threading.Lock()
        self.shares_cores = False
        """Another process works for the same sessions on the same cores while this one has nothing of them."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="device")
        # only the event loop counts
        self._unfinished = 0
        if n_threads is not None:
            self._executor.submit(torch.set_num_threads, n_threads).result()

    def watch(self, arrivals: ArrivalEstimator) -> None:
        """Counts one more engine's sessions in `next_due`, as long as it lives. From any thread: engines are made on
        this one while the event loop serves others."""
        with self._adding_lock:
            # never changed in place: the loop may be going through it
            alive = [known for known in self._estimators if known() is not None]
            self._estimators = (*alive, weakref.ref(arrivals))

    def next_due(self, now: float) -> float | None:
        """Seconds until the thread is needed for somebody's next token; see `ArrivalEstimator.next_due`."""
        estimators = (known() for known in self._estimators)
        due = (estimator.next_due(now) for estimator in estimators if estimator is not None)
        return min((seconds for seconds in due if seconds is not None), default=None)

    def run(self, function: Callable[..., R], *args: Any) -> "asyncio.Future[tuple[R, Timing]]":
        """The function's result and its timing. Cancelling takes work that has not begun off the queue, and so does
        `close`: the future is then cancelled.

        Raises:
            RuntimeError: the thread was closed.
        """
        submitted = time.perf_counter()

        def timed() -> tuple[R, Timing]:
            began = time.perf_counter()
            result = function(*args)
            return result, Timing(began - submitted, time.perf_counter() - began)

        # no task of its own: each turn of the event loop between two steps is time in which nothing is computed
        running = asyncio.wrap_future(self._executor.submit(timed))
        self._unfinished += 1
        running.add_done_callback(self._count_off)
        return running

    def _count_off(self, _running: "asyncio.Future[Any]") -> None:
        self._unfinished -= 1

    async def free(self) -> None:
        """Waits until all that was given before is done."""
        if self._unfinished:
            # not awaited itself: closing the thread cancels it, which is nobody's leaving
            await asyncio.wait({self.run(lambda: None)})

    def close(self) -> None:
        """Lets running work finish, drops what waits, and ends the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
