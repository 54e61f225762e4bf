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
    """How long a call waited for the thread and how long it ran, in seconds."""

    queue_seconds: float
    compute_seconds: float


class DeviceThread:
    """Runs functions one after the other, in the order in which they were submitted.

    Its methods are called on the event loop's thread, except `watch`, which any thread may call.

    Args:
        n_threads: cores that torch may use inside one operator; None leaves the choice to torch.
    """

    def __init__(self, n_threads: int | None = None) -> None:
        self._estimators: tuple[weakref.ref[ArrivalEstimator], ...] = ()
        self._adding_lock = threading.Lock()
        self.shares_cores = False
        """Whether another process works for the same sessions on the same cores, while this one waits for it."""
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="device")
        # written on the event loop's thread alone
        self._unfinished = 0
        if n_threads is not None:
            self._executor.submit(torch.set_num_threads, n_threads).result()

    def watch(self, arrivals: ArrivalEstimator) -> None:
        """Includes one more engine's sessions in `next_due`, as long as the engine lives.

        From any thread: an engine may be created on the device thread while the event loop serves others.
        """
        with self._adding_lock:
            # replaced and not changed in place: the event loop may iterate over it
            alive = [known for known in self._estimators if known() is not None]
            self._estimators = (*alive, weakref.ref(arrivals))

    def next_due(self, now: float) -> float | None:
        """Seconds until the thread is needed for some session's next token; see `ArrivalEstimator.next_due`."""
        estimators = (known() for known in self._estimators)
        due = (estimator.next_due(now) for estimator in estimators if estimator is not None)
        return min((seconds for seconds in due if seconds is not None), default=None)

    def run(self, function: Callable[..., R], *args: Any) -> "asyncio.Future[tuple[R, Timing]]":
        """The function's result and its timing. A call that has not begun can be cancelled; `close` cancels it.

        Raises:
            RuntimeError: the thread was closed.
        """
        submitted = time.perf_counter()

        def timed() -> tuple[R, Timing]:
            began = time.perf_counter()
            result = function(*args)
            return result, Timing(began - submitted, time.perf_counter() - began)

        # not a task: the device is idle during each iteration of the event loop between two steps
        running = asyncio.wrap_future(self._executor.submit(timed))
        self._unfinished += 1
        running.add_done_callback(self._on_done)
        return running

    def _on_done(self, _running: "asyncio.Future[Any]") -> None:
        self._unfinished -= 1

    async def drain(self) -> None:
        """Waits until all calls that were submitted before are done."""
        if self._unfinished:
            # not awaited directly: closing the thread cancels it, which must not look like a cancelled caller
            await asyncio.wait({self.run(lambda: None)})

    def close(self) -> None:
        """Lets the running call finish, cancels those that wait, and ends the thread."""
        self._executor.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
