"""Knows whether this process was forked from one that had used gRPC already.

Threads do not come along into a forked process, so neither gRPC's nor ours would ever answer there: a call would wait
for ever, whatever its timeout, and so would one that only hangs up. What was not used before the fork can be used
behind it.
"""

from __future__ import annotations

import os

from splitlearn_comm.errors import Forked

_used = False
_forked = False


def check() -> None:
    """Notes that gRPC is used in this process from now on.

    Raises:
        Forked: it was used in the process that this one was forked from, and cannot be used here any more.
    """
    global _used
    if _forked:
        raise Forked(
            "gRPC was used in the process that this one was forked from, and does not work here: start processes with "
            "multiprocessing's 'spawn' or 'forkserver' (a DataLoader's multiprocessing_context), or make the first "
            "call after the fork"
        )
    _used = True


def is_forked() -> bool:
    """Whether there is nothing here that could be closed: connections and servers are the parent's."""
    return _forked


def _in_child() -> None:
    global _forked
    _forked = _forked or _used


os.register_at_fork(after_in_child=_in_child)
