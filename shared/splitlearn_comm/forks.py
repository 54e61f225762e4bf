"""Tracks whether this process was forked from one that had already used gRPC.

A fork does not copy threads, so neither gRPC's nor ours would ever answer in the child: a call would wait forever,
whatever its timeout, and so would one that only closes a connection. A process that did not use gRPC before the fork
can use it afterwards.
"""

from __future__ import annotations

import os

from splitlearn_comm.errors import Forked

_used = False
_forked = False


def check() -> None:
    """Record that this process uses gRPC from now on.

    Raises:
        Forked: this process was forked from one that had used gRPC, so it cannot use gRPC itself.
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
    """Whether there is nothing to close here, because connections and servers belong to the parent."""
    return _forked


def _in_child() -> None:
    global _forked
    _forked = _forked or _used


os.register_at_fork(after_in_child=_in_child)
