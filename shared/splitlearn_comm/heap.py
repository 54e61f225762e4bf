"""Returns freed memory to the system.

glibc keeps freed memory in an arena per thread. After large messages were refused, that is hundreds of megabytes that
no honest client ever needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from typing import Final

# Trimming takes a few milliseconds, so streams that end together share one trim.
_SECONDS: Final = 1.0


class HeapTrimmer:
    """Calls malloc_trim on a thread, a moment after a request; does nothing if the C library has no malloc_trim.

    grpc leaves a failed call in a reference cycle, so its message lives until the garbage collector runs. A full
    collection is cheap only in a process that froze its initial objects (gc.freeze), so it is done only there.
    """

    def __init__(self) -> None:
        self._trim: Callable[[int], object] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._due: asyncio.TimerHandle | None = None
        self._again = False
        self._collects = False

    def soon(self) -> None:
        """Request a trim. If one is already due, another follows it, because the requesting call is not over yet."""
        if self._trim is None:
            return
        self._again = self._due is not None
        if self._due is None:
            self._due = asyncio.get_running_loop().call_later(_SECONDS, self._run)

    def stop(self) -> None:
        if self._due is not None:
            self._due.cancel()
            self._due = None

    def _run(self) -> None:
        self._due = None
        # Remembered, because Python counts frozen objects one by one, which takes longer than the collection.
        self._collects = self._collects or gc.get_freeze_count() > 0
        if self._collects:
            gc.collect()
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
        if self._again:
            self.soon()
