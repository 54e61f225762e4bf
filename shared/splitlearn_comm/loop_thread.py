"""The event loop behind the blocking classes: one thread for all of them, for the life of the process."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine
from functools import cache
from typing import Any, TypeVar

from splitlearn_comm import forks
from splitlearn_comm.errors import Forked
from splitlearn_comm.event_loop import new_event_loop

_T = TypeVar("_T")


class LoopThread:
    """Runs coroutines for threads that wait for them."""

    def __init__(self) -> None:
        self._loop = new_event_loop()
        # A daemon, so that a script that closes nothing still exits. The loop is never stopped: grpc complains about
        # every server that outlives its loop.
        self._thread = threading.Thread(target=self._loop.run_forever, name="splitlearn-comm", daemon=True)
        self._thread.start()

    def run(self, coroutine: Coroutine[Any, Any, _T]) -> _T:
        """Run a coroutine and return its result, or raise its error. Call it from any thread but the loop's own.

        A KeyboardInterrupt here cancels the coroutine.

        Raises:
            Forked: this process was forked from the one that has the loop.
        """
        try:
            forks.check()
        except Forked:
            coroutine.close()
            raise
        if threading.current_thread() is self._thread:
            coroutine.close()
            raise RuntimeError("a blocking call on the event loop's own thread waits for itself; use the async class")
        future = asyncio.run_coroutine_threadsafe(coroutine, self._loop)
        try:
            return future.result()
        finally:
            future.cancel()


_start_once = cache(LoopThread)
_starting = threading.Lock()


def close(coroutine: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that closes something on the loop; in a forked process there is nothing to close."""
    if forks.is_forked():
        coroutine.close()
    else:
        loop_thread().run(coroutine)


def loop_thread() -> LoopThread:
    """The process's only loop thread, started when first needed: grpc handles several loops badly.

    Raises:
        Forked: this process was forked from one that has it.
    """
    # Before the lock, which a thread that did not survive the fork may have held.
    forks.check()
    # With the cache alone, concurrent threads could each create one.
    with _starting:
        return _start_once()
