"""Child processes that never outlive their parent."""

import ctypes
import os
import signal
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def end_with_parent(parent: int, by: signal.Signals) -> None:
    """Makes the kernel send `by` to this process when the thread that started it ends, for any reason.

    Linux only; elsewhere the parent ends its children, if it can.

    Args:
        parent: the process of that thread.
    """
    if sys.platform != "linux":
        return
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, by, 0, 0, 0)
    if os.getppid() != parent:  # the parent ended before prctl
        os.kill(os.getpid(), by)
