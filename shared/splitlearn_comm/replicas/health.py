"""What is known about one replica of the trunk, and whether sessions may be placed on it. Plain values, no clock."""

from dataclasses import dataclass
from enum import StrEnum

FAULTS_TO_EJECT = 3
"""Faulty sessions in a row, without a good one in between, after which a replica that answers is not used for a while.
More than one, because a fault may be the session's own; silence is not, and one session is enough."""
FIRST_EJECTION_SECONDS = 1.0
LONGEST_EJECTION_SECONDS = 60.0
TIMEOUTS_TO_DOUBT = 2
"""Late answers in a row after which a replica counts as unreachable: one may be a busy machine's."""


class ReplicaState(StrEnum):
    """The states, as metrics and logs name them."""

    CONNECTING = "connecting"
    READY = "ready"
    NOT_SERVING = "not_serving"
    UNREACHABLE = "unreachable"
    INCOMPATIBLE = "incompatible"
    EJECTED = "ejected"


@dataclass
class ReplicaHealth:
    """Fed with what polls, the health watch and sessions see; says the state.

    An ejection ends by itself, and each one without a good session in between is twice as long as the last.
    All other states end with the next answer.

    Attributes:
        reason: why sessions are not placed here, for people; None while the state is READY.
        may_recover: whether that may change by itself.
    """

    reason: str | None = "the trunk has not answered yet"
    may_recover: bool = True
    _state: ReplicaState = ReplicaState.CONNECTING
    _n_timeouts: int = 0
    _n_faults: int = 0
    _ejection_seconds: float = FIRST_EJECTION_SECONDS
    _ejected_until: float | None = None

    def state(self, now: float) -> ReplicaState:
        """The state at `now`, in seconds of the clock that `faulted` gets."""
        if self._state is ReplicaState.READY and self._ejected_until is not None and now < self._ejected_until:
            return ReplicaState.EJECTED
        return self._state

    def answered(self, *, is_serving: bool, incompatibility: str | None) -> None:
        """The replica answered a poll."""
        self._n_timeouts = 0
        if incompatibility is not None:
            self._set(ReplicaState.INCOMPATIBLE, incompatibility, may_recover=False)
        elif not is_serving:
            self._set(ReplicaState.NOT_SERVING, "the trunk is starting or shutting down")
        else:
            self._set(ReplicaState.READY, None)

    def unreachable(self, reason: str) -> None:
        """No connection, or it broke."""
        self._set(ReplicaState.UNREACHABLE, reason)

    def answers_late(self, reason: str) -> None:
        """A poll timed out."""
        self._n_timeouts += 1
        if self._n_timeouts >= TIMEOUTS_TO_DOUBT or self._state is ReplicaState.CONNECTING:
            self.unreachable(reason)

    def waits_for_others(self, reason: str) -> None:
        """The replica answered a poll: it is well, but its next stage takes no sessions."""
        self._n_timeouts = 0
        self._set(ReplicaState.NOT_SERVING, reason)

    def drains(self) -> None:
        """The replica said that it is shutting down."""
        self._set(ReplicaState.NOT_SERVING, "the trunk is shutting down")

    def faulted(self, now: float) -> bool:
        """A session on a replica that answers polls got an error or garbage. True if that ejects the replica."""
        self._n_faults += 1
        if self._n_faults < FAULTS_TO_EJECT:
            return False
        self._eject(now)
        return True

    def fell_silent(self, reason: str, now: float) -> bool:
        """A session waited for a sign of life in vain. It may be the device alone that is frozen: the next poll may be
        answered, so that is no reason to place sessions here. True if that ejects the replica, and it was not before.
        """
        self.unreachable(reason)
        if self._ejected_until is not None and now < self._ejected_until:
            return False
        self._eject(now)
        return True

    def succeeded(self) -> None:
        """A session got usable rows."""
        self._n_faults = 0
        self._ejection_seconds = FIRST_EJECTION_SECONDS

    def _eject(self, now: float) -> None:
        self._n_faults = 0
        self._ejected_until = now + self._ejection_seconds
        self._ejection_seconds = min(2 * self._ejection_seconds, LONGEST_EJECTION_SECONDS)

    def _set(self, state: ReplicaState, reason: str | None, *, may_recover: bool = True) -> None:
        self._state, self.reason, self.may_recover = state, reason, may_recover
