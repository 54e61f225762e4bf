"""Whether an error of a session's stream is the session's own, or another replica may do better. Plain values."""

from enum import Enum, auto

from splitlearn_comm.errors import (
    Cancelled,
    CommError,
    Draining,
    Forked,
    InvalidRequest,
    NextStageFailed,
    Overloaded,
    PositionNotReached,
    SessionTooLong,
)

MOST_FAULTS = 5
"""Faults of one session without a token in between that are made up for. One more is likely the session's own: what
breaks that many replicas would break the others too."""

_OWN = (InvalidRequest, SessionTooLong, PositionNotReached, Cancelled, Forked)


class Fault(Enum):
    """Whose fault an error is.

    OWN: the session would meet it on every replica.
    BUSY: the replica is fine, but has no capacity.
    DRAINING: the replica shuts down, and asks to go elsewhere.
    REPLICA: the replica or the way to it failed.
    LATER_STAGE: the replica is fine, but a later stage of its chain failed.
    """

    OWN = auto()
    BUSY = auto()
    DRAINING = auto()
    REPLICA = auto()
    LATER_STAGE = auto()


def fault_of(error: CommError) -> Fault:
    """Classifies the error that ended, or refused, a session's stream."""
    if isinstance(error, _OWN):
        return Fault.OWN
    if isinstance(error, Overloaded):
        return Fault.BUSY
    if isinstance(error, NextStageFailed):
        return Fault.LATER_STAGE
    return Fault.DRAINING if isinstance(error, Draining) else Fault.REPLICA
