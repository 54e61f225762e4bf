"""One session's stream to the trunk: on one replica, and after a fault on another."""

import asyncio
import dataclasses
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import structlog

from splitlearn.engine.speculation import MAX_SESSION_ROWS, SPECULATION, Speculation, rows_named
from splitlearn_client.faults import MOST_FAULTS, Fault, fault_of
from splitlearn_client.report import Failover, Report
from splitlearn_comm import ClientStream, CommError, FingerprintMismatch, Frame, Overloaded, Reply, SessionOpening
from splitlearn_comm.replicas.replica import Replica
from splitlearn_comm.replicas.replica_set import ReplicaSet

log = structlog.get_logger()

# How long a session waits before it asks replicas again that had no capacity, or whose next stage failed.
_ASK_AGAIN_SECONDS = 0.5
# How long the end of a complete answer waits for the replica to close the session.
_CLOSE_SECONDS = 1.0


@dataclass
class _Outage:
    """The time between a fault and the next token. More faults may come in between."""

    reason: str
    began: float
    """When the first fault was detected."""
    first_detection: float
    """How long that took."""
    later_detections: float = 0.0
    n_faults: int = 0
    avoided: set[str] = field(default_factory=set)
    """Replicas that failed or had no capacity."""
    retry_after: float | None = None
    """The shortest time after which a replica without capacity said to come again."""

    def refused(self, error: Overloaded) -> None:
        """A replica without capacity said this."""
        self.retry_after = min(filter(None, (self.retry_after, error.retry_after)), default=None)

    def refusal(self, error: CommError) -> CommError:
        """The error for the user: the last one, with the shortest time that any replica named."""
        return Overloaded(str(error), self.retry_after) if isinstance(error, Overloaded) else error


class SessionStream:
    """Sends frames to the replica that it is on, and moves when that is of no use any more.

    After `fail_over` the new replica holds none of the session's rows, unless `open` says how many it has cached.

    Args:
        replicas: where the session may move to.
        replica: where it begins.
        opening: what opens it; the block hashes are those of its first rows.
        failover_timeout: seconds that an outage may last.
        report: gets the failovers.
    """

    def __init__(
        self,
        replicas: ReplicaSet,
        replica: Replica,
        opening: SessionOpening,
        failover_timeout: float,
        report: Report,
    ) -> None:
        self._replicas = replicas
        self._failover_timeout = failover_timeout
        self._report = report
        self._outage: _Outage | None = None
        self._has_begun = False
        self._placement = ExitStack()
        self._bytes_before = (0, 0)
        self._stream = self._placed(replica, opening)

    @property
    def replica(self) -> Replica:
        """Where the session is now."""
        return self._replica

    @property
    def ended(self) -> bool:
        return self._stream.ended

    @property
    def speculation(self) -> Speculation:
        """Whether guesses can run behind a session's rows, as the replica says."""
        return Speculation.named(self._replica.attributes.get(SPECULATION))

    @property
    def max_session_rows(self) -> int:
        """Rows that a session may hold there, as the replica says; 0 if it does not."""
        return rows_named(self._replica.attributes.get(MAX_SESSION_ROWS))

    @property
    def n_sessions(self) -> int:
        """Sessions on the replica: of all clients, as it told last, or as many as this one has there now."""
        return max(self._replica.load.reported.running_sessions, self._replica.n_sessions)

    @property
    def codec(self) -> str:
        """Encodes the rows in both directions, on every replica."""
        return self._stream.opening.codec

    @property
    def bytes_sent(self) -> int:
        """To all replicas together."""
        return self._bytes_before[0] + self._stream.bytes_sent

    @property
    def bytes_received(self) -> int:
        """From all replicas together."""
        return self._bytes_before[1] + self._stream.bytes_received

    @property
    def received_at(self) -> float:
        """When the reply that was received last had come, by the event loop's clock."""
        return self._stream.received_at

    async def open(self) -> int:
        """Opens the session on the replica. Returns how many of its first rows the replica has cached.

        Raises:
            CommError: `fail_over` decides what becomes of it.
        """
        return await self._stream.open() if self._stream.opening.has_reply else 0

    async def send(self, frame: Frame) -> None:
        """Sends a frame. Raises CommError."""
        await self._stream.send(frame)

    async def receive(self) -> Reply:
        """The reply to the oldest frame without one. Raises CommError."""
        return await self._stream.receive()

    def resumed(self) -> None:
        """Must be called after each token: an outage, if there was one, is over."""
        self._has_begun = True
        self._replica.succeeded()
        outage, self._outage = self._outage, None
        if outage is not None:
            seconds = _now() - outage.began - outage.later_detections
            detection = outage.first_detection + outage.later_detections
            self._report.failovers.append(Failover(outage.reason, detection, seconds))
            log.info(
                "session resumed",
                session=self._report.session,
                replica=self._replica.address,
                seconds=round(seconds, 3),
            )

    async def fail_over(self, error: CommError, block_hashes: Callable[[], tuple[bytes, ...]]) -> None:
        """Moves to another replica, or to the same one once it is back; waits for one if there is none.

        Args:
            error: what ended or refused the stream.
            block_hashes: of all rows of the session, for replicas that have cached some of them.

        Raises:
            FingerprintMismatch: none takes the session, and none will by itself: all that answer have another model or
                cut, or damaged weights.
            CommError: `error`, if no other replica would do better, or none came in time.
        """
        fault = fault_of(error)
        if fault is Fault.OWN:
            raise error
        outage = self._noted(error, fault)
        self._stream.cancel()
        left = outage.began + self._failover_timeout - _now()
        if outage.n_faults > MOST_FAULTS or left <= 0:
            raise error
        if fault is Fault.BUSY and outage.avoided >= self._replicas.usable_addresses():
            if not self._has_begun:
                raise outage.refusal(error)
            outage.avoided.clear()
            await asyncio.sleep(min(left, _ASK_AGAIN_SECONDS))
        elif fault is Fault.LATER_STAGE and outage.n_faults > 1 and outage.avoided >= self._replicas.usable_addresses():
            # the first stage takes another next one at once; if it has none, its health says so in a moment
            await asyncio.sleep(min(left, _ASK_AGAIN_SECONDS))
        replica = await self._replicas.picked(outage.avoided, left)
        if replica is None:
            if self._replicas.may_recover:
                raise error
            raise FingerprintMismatch(self._replicas.reason or str(error)) from error
        sent, received = self._bytes_before
        self._bytes_before = sent + self._stream.bytes_sent, received + self._stream.bytes_received
        opening = dataclasses.replace(
            self._stream.opening, block_hashes=block_hashes(), refused_elsewhere=outage.retry_after is not None
        )
        self._stream = self._placed(replica, opening)

    async def finish(self, block_hashes: tuple[bytes, ...]) -> None:
        """Announces the end, and lets the replica cache the rows of these blocks. The answer is complete already."""
        with suppress(CommError):
            await self._stream.finish(block_hashes)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        try:
            if error is None:
                # the answer is complete, even if the trunk is gone by now; its caller does not wait for a frozen one
                with suppress(CommError):
                    await self._stream.close(_CLOSE_SECONDS)
            else:
                self._stream.cancel()
                await self._stream.wait_ended()
        finally:
            self._placement.close()

    def _placed(self, replica: Replica, opening: SessionOpening) -> ClientStream:
        """A new stream on this replica, which counts the session from now on."""
        # a replica that may refuse the session is asked before anybody has computed rows for it
        opening = dataclasses.replace(opening, asks_first=replica.load.may_refuse)
        # before the placement, which would otherwise stay if no stream can be made
        stream = replica.client.stream(opening)
        self._placement.close()
        self._placement.enter_context(self._replicas.placed(replica, opening.max_length))
        self._replica = replica
        return stream

    def _noted(self, error: CommError, fault: Fault) -> _Outage:
        """The current outage, which begins with this error unless it has begun already."""
        is_failure = fault in (Fault.REPLICA, Fault.LATER_STAGE)
        detection = self._stream.silent_seconds if is_failure else 0.0
        if self._outage is None:
            self._outage = _Outage(type(error).__name__, _now(), detection)
        else:
            self._outage.later_detections += detection
        self._outage.avoided.add(self._replica.address)
        if isinstance(error, Overloaded):
            self._outage.refused(error)
        if fault is not Fault.BUSY:
            self._outage.n_faults += is_failure
            self._replica.faulted(error)
            session, replica = self._report.session, self._replica.address
            log.warning("session fails over", session=session, replica=replica, reason=str(error))
        return self._outage


def _now() -> float:
    return asyncio.get_running_loop().time()
