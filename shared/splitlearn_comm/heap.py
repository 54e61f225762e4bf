"""Freed memory, given back to the system.

glibc keeps what was freed in an arena of each thread. After large messages were refused, that is hundreds of megabytes
which no honest client ever needs.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
from collections.abc import Callable
from typing import Final

# Trimming takes some milliseconds: many streams that end are one reason, not many.
_SECONDS: Final = 1.0


class HeapTrimmer:
    """Calls malloc_trim a moment after it was told to, on a thread; where the C library has none, does nothing.

    What grpc makes of a failed call is a cycle, so its message lives until the garbage collector runs. A whole
    collection is cheap only in a process that froze what it began with (gc.freeze), and done only there.
    """

    def __init__(self) -> None:
        self._trim: Callable[[int], object] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
        self._due: asyncio.TimerHandle | None = None
        self._again = False
        self._collects = False

    def soon(self) -> None:
        """Asked for while it is due already, it happens once more after that: the call that asks is not over yet."""
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
        # Python counts what is frozen one by one, which takes longer than the collection.
        self._collects = self._collects or gc.get_freeze_count() > 0
        if self._collects:
            gc.collect()
        if self._trim is not None:
            asyncio.get_running_loop().run_in_executor(None, self._trim, 0)
        if self._again:
            self.soon()
